"""claw-proto: nodes over WebSocket, JSON and bincode."""
