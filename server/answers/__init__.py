"""Answers: assembled whole, or relayed as streams."""
