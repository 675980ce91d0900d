"""A conversation on a running lab, captured at every interface of every machine: the kernel's Walk.

One process does everything: sockets stay in the network namespace they were made in, so it enters each machine once
and keeps a packet socket there. It also is every program of the conversation, so that one step is over before the next
begins. A veth pair hands frames on within the sending system call, or after it on the same CPU (net/core/dev.c,
netif_rx): a step is over when a frame that was sent behind all others has come, and nothing in front of it.

What would make two runs differ is taken away first: neighbours are written into the tables, every bridge has seen every
address, and ICMP errors are not rate limited.
"""

from __future__ import annotations

from sidegate.lab.tracing.tracer import Tracer

__all__ = ["Tracer"]
