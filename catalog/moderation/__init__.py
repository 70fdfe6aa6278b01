"""Moderation: the categories of harmful content."""
