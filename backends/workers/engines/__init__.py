"""The engines: a module or package each, the only place that imports the engine's heavy packages."""
