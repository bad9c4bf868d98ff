"""How orders reach nodes: one driver per sort of node."""
