"""Tests of places in pictures."""
