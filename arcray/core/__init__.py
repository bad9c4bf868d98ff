"""The decisions: what arcray decides, and nothing it does. See README.md."""
