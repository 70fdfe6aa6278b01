"""Google Vertex AI: Gemini, Claude and open models behind Google Cloud's authentication."""
