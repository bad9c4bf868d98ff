"""The single writer: a Ray-free shell round ``core.Cluster``."""
