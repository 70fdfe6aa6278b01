"""Rewrites chats, without loss, into the forms that a provider takes, and answers back into the caller's."""
