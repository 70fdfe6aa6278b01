"""The endpoints of other retrieval servers: vLLM's score, TEI's and Cohere's."""
