"""Batches: many requests in one file, answered beside interactive traffic."""
