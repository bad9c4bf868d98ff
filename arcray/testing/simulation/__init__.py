"""Deterministic simulation: a whole cluster on a virtual clock, in which one seed decides everything that happens."""
