"""Makes the workers of this machine, llama-server and our worker app, behave like OpenAI's API."""
