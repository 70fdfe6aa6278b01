"""Model files on disk: fetched from package indexes and the Hugging Face hub, checked and prepared."""
