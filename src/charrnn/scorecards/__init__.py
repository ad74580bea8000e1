"""Scorecards of text, also of what a model wrote: figures beside those of real text. No JAX."""
