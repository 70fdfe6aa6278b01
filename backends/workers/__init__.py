"""Local workers: one process per loaded model, reached over a Unix socket."""
