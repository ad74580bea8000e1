"""Scorecards: metrics of generated text beside those of held-out text."""
