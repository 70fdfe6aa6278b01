"""OpenAI's wire: calls, documents of answers, forms of requests, and the list of models."""
