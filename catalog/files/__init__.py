"""Model files: what their headers and names tell, and the rows made from them."""
