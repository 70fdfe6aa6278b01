"""Reads sentences as phonemes in the alphabet of Kokoro's models, one module per language."""
