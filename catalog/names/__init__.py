"""Names of models as other programs write them."""
