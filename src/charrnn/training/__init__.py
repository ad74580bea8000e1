"""The training state, the training step, the optimizers and the training loop."""
