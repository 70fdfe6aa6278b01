"""Carrying out a plan: jobs, attempts, leases, retries, traces, and the validation of answers."""
