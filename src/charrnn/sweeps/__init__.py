"""Sweeps, searches and the comparison of runs."""
