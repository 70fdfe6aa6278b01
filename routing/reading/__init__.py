"""Reading a request into facts: task, complexity, needed capabilities, tokens, and the caller's intent."""
