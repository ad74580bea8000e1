"""Run directories: reading and writing of configs, checkpoints, metrics and provenance."""
