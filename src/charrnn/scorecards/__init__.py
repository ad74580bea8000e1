"""Scorecards: metrics of generated text, compared with held-out text."""
