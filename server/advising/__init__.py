"""Advice on models for this machine: the command line, ``doctor`` and the list of models read it."""
