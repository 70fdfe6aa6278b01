"""The engines' shared part of drawing: requests, pixels before and after a model, events. It needs Pillow."""
