"""The language of Text Embeddings Inference, in front of every embedding model, reranker and classifier."""
