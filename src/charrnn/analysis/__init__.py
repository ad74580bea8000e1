"""Tests of hypotheses about the units of trained networks, and an explorer page."""
