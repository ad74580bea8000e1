"""Sampling from trained models: filters, constraints, beam search, clamped units."""
