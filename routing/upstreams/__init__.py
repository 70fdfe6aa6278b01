"""The condition of endpoints and models: circuit breakers, keys, concurrency, availability, discovery."""
