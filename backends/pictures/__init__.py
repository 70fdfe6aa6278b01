"""Pictures, made ready for a model: upright, of a format that it reads, and small if asked."""
