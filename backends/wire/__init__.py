"""The requests of OpenAI's wire as bounded types, and helpers that read their parts."""
