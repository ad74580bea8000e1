"""The state that is trained, the step that trains it, and the loop around both."""
