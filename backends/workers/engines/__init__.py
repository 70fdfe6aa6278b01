"""One file per engine; heavy packages are imported inside it only."""
