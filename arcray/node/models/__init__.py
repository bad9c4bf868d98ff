"""Loaded models: supervised child processes. Import its modules; a child must not pay for what the agent needs."""
