"""Prices of models, and the exact rates compiled from them."""
