"""The speech of a session: pieces of text that can be spoken alone, their audio, and how much of it was heard."""
