"""Our own workers: llama-server's wire and our worker app's, made to behave as OpenAI's."""
