"""Front ends: what listens on a port and hosts the services."""
