"""What callers said before."""
