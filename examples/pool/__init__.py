"""Clients of the Resource Pool."""
