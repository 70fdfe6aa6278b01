"""Earlier turns of callers."""
