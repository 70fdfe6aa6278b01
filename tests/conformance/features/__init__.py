"""The table of what each provider does with each parameter of the three doors, made by asking it.

``samples`` has a value for every parameter of the official SDKs' types; ``probe`` sends each through the real app
to each provider's fake and sorts what came of it; ``table`` writes ``docs/FEATURES.md``.
"""
