"""The engine llama-cpp-python: GGUF models, one request at a time."""
