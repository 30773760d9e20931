"""Fakes of ports and builders that several tiers share."""
