"""Running a trained model freely: filters on logits, and generation."""
