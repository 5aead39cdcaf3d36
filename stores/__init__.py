"""What survives: the store port and its implementations."""
