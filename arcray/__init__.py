"""One runtime that pools GPU machines of every kind and runs every kind of work on them."""
