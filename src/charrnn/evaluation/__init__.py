"""Scores of text under a model."""
