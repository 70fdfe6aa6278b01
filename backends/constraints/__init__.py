"""Binds an answer to a JSON schema, a regular expression, a choice or a grammar, or refuses the request."""
