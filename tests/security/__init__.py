"""What keeps strangers out, and what keeps those who are let in within their bounds."""
