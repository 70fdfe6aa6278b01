"""A judge: a model that compares two answers to one request, blind and in both orders."""
