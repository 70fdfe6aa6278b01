"""Trains the starter model that draws."""
