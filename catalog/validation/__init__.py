"""Rules that every settings section shares, and the wording of what a validation refuses."""
