"""Run directories: configs, checkpoints, metrics and provenance."""
