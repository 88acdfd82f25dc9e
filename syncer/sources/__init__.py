"""Where connection IDs come from."""
