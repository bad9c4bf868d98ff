"""Clients of ArcNet."""
