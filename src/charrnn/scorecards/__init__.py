"""Scorecards: metrics of generated text, compared with those of held-out text."""
