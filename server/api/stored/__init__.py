"""Objects that callers keep: files, uploads, batches."""
