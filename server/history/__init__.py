"""What callers said before: responses and their chains, conversations, background responses, chats."""
