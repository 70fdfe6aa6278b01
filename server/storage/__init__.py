"""Objects that callers keep between requests, and the work that goes on after a request."""
