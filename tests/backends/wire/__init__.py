"""The wire: requests, chunks and event streams."""
