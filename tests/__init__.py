"""Mirrors the folders above; read as a specification."""
