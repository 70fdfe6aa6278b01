"""Objects that callers keep: files, uploads, batches, responses, conversations, chat completions."""
