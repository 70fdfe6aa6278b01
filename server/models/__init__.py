"""Models at run time: rows registered over HTTP, pulls in the background and on first use, options of a load."""
