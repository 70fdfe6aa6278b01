"""The worker process: its entry point, HTTP app, server, and threads for blocking work."""
