"""Benchmarks: speed compared with other implementations and with the machine's roofline."""
