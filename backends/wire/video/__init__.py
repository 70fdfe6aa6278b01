"""Videos on the wire."""
