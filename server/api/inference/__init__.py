"""The endpoints that a model answers, one file per resource."""
