"""Real HTTP servers that speak the providers' wires, with faults on demand."""
