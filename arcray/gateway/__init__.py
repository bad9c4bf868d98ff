"""The protocols, served by Ray Serve: one ingress deployment with native listeners."""
