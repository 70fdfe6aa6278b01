"""The workers that Roundhouse runs itself: one process per loaded model, on a Unix socket."""
