"""Text becomes a stream of ids: corpora, tokenizers, splits and windows. Does not use JAX."""
