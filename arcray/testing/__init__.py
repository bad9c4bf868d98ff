"""Public fakes: an in-process control plane with simulated nodes, a clock, builders."""
