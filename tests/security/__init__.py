"""Tests of access control and of the bounds on every request."""
