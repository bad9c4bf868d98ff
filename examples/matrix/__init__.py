"""One pool: work of every protocol, on machines that joined by every protocol."""
