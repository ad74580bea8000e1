"""What the cells of a trained network respond to, and what generated text is like."""
