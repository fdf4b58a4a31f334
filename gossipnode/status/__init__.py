"""What a node tells its operator: the report's types, the HTTP pages that serve it, the terminal that shows it."""
