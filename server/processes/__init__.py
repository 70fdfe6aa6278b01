"""Processes: serving, signals, reloads, and several gateways behind one socket."""
