"""``run``: a conversation in the terminal, or one answer for a script."""
