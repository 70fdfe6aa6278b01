"""Trains the recogniser of task and complexity."""
