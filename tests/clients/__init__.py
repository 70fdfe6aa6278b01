"""Real clients from the registries, each in an environment of its own, against a real server."""
