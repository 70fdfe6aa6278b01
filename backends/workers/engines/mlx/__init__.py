"""The engine mlx: chat and completion of Hugging Face folders by mlx_lm."""
