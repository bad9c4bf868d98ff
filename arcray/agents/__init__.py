"""Machines outside the Ray cluster that join over a protocol; filled by the protocols' own issues."""
