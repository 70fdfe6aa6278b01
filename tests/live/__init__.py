"""Real providers, real keys: ``make test-live``."""
