"""arcray's own REST API: workloads and models. See README.md for the contract."""
