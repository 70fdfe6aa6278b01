"""Calibration: measures models on built-in questions whose answers a program can check."""
