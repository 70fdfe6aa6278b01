"""The hearing of a session: audio formats, voice activity, the turns of a speaker, and transcripts."""
