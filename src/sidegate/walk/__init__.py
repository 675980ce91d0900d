"""The walk: any conversation through any home, hop by hop, without root and without a kernel.

`network` turns a home into nodes (from the very blueprint that the lab builds), `engine` carries packets through
bridges, netfilter, routing and sockets, `conntrack` holds connection tracking and NAT, `conversation` plays a question
as a script of sends and judges what came of it. `laws` is the list of rules that all of them follow, each with its
kernel source. `data` is what comes out: a Walk. Pure: no I/O, no clock, no randomness.
"""
