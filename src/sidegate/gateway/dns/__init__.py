"""The resolver: names of the LAN, names that go straight, names that are proxied; and the addresses learned from them."""
