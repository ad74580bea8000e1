"""Timings beside other implementations and beside the roofline of the machine."""
