"""Other API languages at the door, translated to chat and back."""
