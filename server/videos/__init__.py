"""Videos: work that outlives its request, and the files that it makes."""
