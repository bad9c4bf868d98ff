"""Clients of arcray's own API."""
