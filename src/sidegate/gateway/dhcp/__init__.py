"""Handing out addresses: what our DHCP server says (`terms`, pure), its configuration and leases, and who else serves.

dnsmasq does the serving, as a child of the daemon (`gateway.children`); nothing here speaks DHCP to clients.
"""
