"""The lab: any home on the real kernel.

`blueprint` turns a home into machines and wires, as pure data; `parts` says of what, `internet` is what lies outside of
the home, `listing` tells all as text. `init` builds them as network namespaces inside a user, mount and PID namespace
of their own and keeps them alive, `machine` makes each from inside; `lab` is the handle on such a lab from outside,
`registry` finds it again in another process. `servers` are the programs of the internet and of the clients, `http3` and
`proxying` those that need a process of their own, `papers` their certificates. `asking`, `resolving` and `visiting` are
what a person at a client would try, `check` holds the home's expectations against the kernel, `capture` listens on a
wire, `wiretap` where the home ends.

A lab ends with the process that built it, by a pipe whose last writer is that process; `Lab.release` lets it live on.

The lab runs the gateway as a user would, through its command line. It never imports `sidegate.gateway`.
"""
