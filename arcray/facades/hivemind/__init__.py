"""HiveMind: users, tasks and worker nodes over gRPC. See README.md for the contract."""
