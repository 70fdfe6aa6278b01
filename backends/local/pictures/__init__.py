"""Pictures in a chat, made ready for a local model: upright, of a format that it reads, and small if asked."""
