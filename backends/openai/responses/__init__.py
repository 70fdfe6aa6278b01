"""Chats over OpenAI's Responses API, for rows and endpoints whose ``wire`` is "responses"."""
