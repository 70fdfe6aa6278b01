"""``doctor``: the facts of this machine, the report of a running server, and the next step."""
