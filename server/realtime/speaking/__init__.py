"""What a session says: pieces of a text that can be spoken alone, their audio, and how much of it was heard."""
