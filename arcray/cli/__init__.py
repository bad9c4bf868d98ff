"""The command line: starts and stops arcray, and speaks to a running one through the client."""
