"""HiveMind beside the main job: users who pay each other, a machine that joins by gRPC, tasks that run for real."""
