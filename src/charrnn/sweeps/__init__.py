"""Sweeps, searches and the comparison of their runs."""
