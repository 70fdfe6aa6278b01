"""Money and callers: spending caps, costs, Roundhouse's own API keys, and usage reports."""
