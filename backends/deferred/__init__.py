"""Providers' batch APIs: many requests in one upload, answered within a day at a lower price."""
