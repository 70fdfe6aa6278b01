"""The expected quality, speed and cost of each model, learned from outcomes and reports."""
