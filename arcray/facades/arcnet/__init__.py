"""ArcNet: REST and WebSocket telemetry. See README.md for the contract."""
