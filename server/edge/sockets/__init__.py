"""WebSockets at the edge: uvicorn's protocol for them, and their way through the gate."""
