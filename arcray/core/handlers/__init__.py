"""The rules: ``on_<command>(turn, command) -> Reply``, one per command, grouped by noun."""
