"""What runs on a machine; see README.md. Import its modules, not this package: children start faster so."""
