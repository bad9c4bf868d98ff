"""Programs that begin as forks of a warm interpreter. See ``README.md``."""
