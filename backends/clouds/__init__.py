"""Clouds that serve other makers' models behind an authentication of their own."""
