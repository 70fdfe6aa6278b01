"""The HTTP server: requests in, answers and event streams out."""
