"""The engine vllm: `vllm serve` behind a middleware that keeps to the worker protocol."""
