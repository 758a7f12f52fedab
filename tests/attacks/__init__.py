"""Clients that attack a server, and what another one gets meanwhile."""
