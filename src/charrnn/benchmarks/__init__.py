"""Timings beside peers, each contestant in a process of its own."""
