"""Measurements: the numbers the design is held to, each beside its target and its floor."""
