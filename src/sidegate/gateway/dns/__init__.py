"""Names for the LAN: what our resolver answers and whom it asks (`names`, `terms`, pure), and dnsmasq that does it.

Nothing here speaks DNS to clients. By nftset dnsmasq tells the kernel which addresses a name has; `learned` sees to it
that no such address is forgotten while a client may still use it.
"""
