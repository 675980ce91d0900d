"""How long who keeps a proxied connection keeps one on which nobody says anything: Xray (`xray`) and our `relay`."""

IDLE_S = 7440
"""RFC 5382 REQ-5."""
