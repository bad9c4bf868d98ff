"""Protocols, one folder each. A facade imports wire and core and nothing else of arcray."""
