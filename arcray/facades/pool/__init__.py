"""Resource Pool: devices that lend and borrow over REST and WebSocket. See README.md for the contract."""
