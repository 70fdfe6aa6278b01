"""What callers said before: stored responses and their chains, conversations, background responses, stored chats."""
