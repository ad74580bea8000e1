"""From a command line to running programs."""
