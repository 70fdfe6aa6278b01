"""Pictures and the places in them, in requests and answers."""
