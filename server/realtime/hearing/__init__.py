"""What a session hears: audio formats, voice activity, the turns of a speaker, and transcripts."""
