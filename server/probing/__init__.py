"""Questions that the server itself asks of models: to measure them, and to judge answers."""
