"""What several commands use: completion, progress, exit statuses."""
