"""The model catalogue: typed rows, their sources and files, this machine's hardware, and the tree of errors."""
