"""Text becomes a stream of ids: corpora, alphabets, splits and windows. Knows no JAX."""
