"""Corpora, tokenizers, splits and windows: from text to batches of ids. Does not import JAX."""
