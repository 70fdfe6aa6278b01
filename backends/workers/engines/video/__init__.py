"""The engine of videos."""
