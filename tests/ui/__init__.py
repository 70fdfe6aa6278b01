"""The console and the API reference in a real browser, before a real server whose models are a fake provider's."""
