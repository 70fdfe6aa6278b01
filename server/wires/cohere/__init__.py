"""Cohere's embeddings, in front of every embedding model."""
