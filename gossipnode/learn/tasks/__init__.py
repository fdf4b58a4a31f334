"""Built-in tasks that need more than one file."""
