"""Parts that several commands share: completion, progress, exit statuses."""
