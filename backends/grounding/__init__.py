"""Places in pictures that an answer names, read into boxes in the pixels of the picture."""
