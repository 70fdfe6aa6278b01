"""What is done with the settings besides reading them: errors, origins, a sample, a schema, a check."""
