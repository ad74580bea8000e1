"""Pure one-step cells, layers unrolled over time, and the stack of them."""
