"""claw beside the main job: a machine that joins by WebSocket, in binary frames, and a container that runs on it."""
