"""What models exist: typed rows, where they come from, and what this machine can hold."""
