"""The curated catalogue: open-weight models by name, where the hub has them, and which fit on a machine."""
