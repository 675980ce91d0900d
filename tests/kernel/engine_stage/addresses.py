"""Who is where on the engine's stage."""

SERVER, TARGET, OTHER, RESOLVER = "192.0.2.1", "198.51.100.1", "198.51.100.2", "198.51.100.53"
DIRECT_RESOLVER = "192.0.2.53"
SILENT = "192.0.2.99"
"""Nobody is there."""
SERVER6, TARGET6 = "2001:db8:1::1", "2001:db8:2::1"
CLIENT6, BOX6 = "fd00::2", "fd00::1"
CLIENT, BOX, BOX_OUTSIDE = "10.0.0.2", "10.0.0.1", "172.16.0.2"
NAME = "proxy.example"
"""Of the servers that speak TLS, and of the target."""
HOSTS = {
    "listed.example": OTHER,
    "www.listed.example": OTHER,
    "other.example": TARGET,
    "six.example": TARGET6,
    NAME: RESOLVER,
}
"""Names that the upstream knows otherwise than the client."""
