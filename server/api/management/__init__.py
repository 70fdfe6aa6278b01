"""The endpoints about the server: models, routing, usage, keys, workers, health."""
