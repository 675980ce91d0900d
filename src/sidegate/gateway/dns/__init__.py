"""The resolver: names of the LAN, names that go straight, names that are proxied; addresses learned from them."""
