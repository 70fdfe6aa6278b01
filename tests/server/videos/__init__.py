"""Videos through the whole gateway."""
