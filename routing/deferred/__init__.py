"""Calls that are answered later, through a provider's batch API: made into requests, and answered from results."""
