"""Calls of models, on this machine's workers and on other servers, over one wire."""
