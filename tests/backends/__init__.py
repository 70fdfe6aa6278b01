"""The backends: how a model is run."""
