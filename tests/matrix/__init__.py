"""Every way to submit work on every kind of node. A package, so that its machines leave with the last of its tests."""
