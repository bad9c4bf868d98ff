"""What facades share: the descriptor, identities, limits, errors over HTTP, events. See README.md."""
