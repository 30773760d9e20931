"""What runs beside the requests: validation and sweeping, one round at a time."""
