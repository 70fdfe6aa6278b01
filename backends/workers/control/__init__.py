"""The worker pool of the parent process, shared with its gateway processes over sockets."""
