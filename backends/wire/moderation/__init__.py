"""Moderation on the wire."""
