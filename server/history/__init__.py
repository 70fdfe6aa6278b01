"""Earlier turns of callers: responses and their chains, conversations, background responses, chats."""
