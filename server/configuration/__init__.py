"""Errors, origins, a sample, a schema and a check of the settings."""
