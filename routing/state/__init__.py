"""The state that outlives the process, in SQLite or Redis."""
