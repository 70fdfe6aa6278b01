"""The engine speech: text to speech by Kokoro and Hibari."""
