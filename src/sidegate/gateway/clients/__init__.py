"""Clients of the LAN: who they are, and whether their return path needs NAT."""
