"""Questions put to a live network, and answers with their evidence.

What to ask next is decided by *talks*: generators that yield commands (send this frame, wait until then) and are
resumed with what happened (`talk.py`). They do no I/O and know no clock, so a test can hold the whole conversation.
`switchboard.py` runs many talks side by side, still without I/O: pacing, deadlines, and which talk a frame belongs to.
`wire.py` is the only place that performs anything: one AF_PACKET socket per network interface.

Built on these: `bridge.py` (does the main router's bridge track a client's frames?) and `prober.py` (the same of many
clients at once), `arp.py` (who has this address?), `reach.py` (is this target reachable?), `dhcp.py` (who hands out
addresses, and which gateway?). Nothing here changes the box or the network.
"""
