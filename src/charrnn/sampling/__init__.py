"""Sampling from trained models: filters, constraints, beam search and clamped units."""
