"""How a model is run: workers on this machine, and servers elsewhere, behind one wire."""
