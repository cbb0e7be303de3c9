"""Outkeep: the service that keeps what Replicate makes."""
