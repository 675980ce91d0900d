"""The lab: any home on the real kernel.

`blueprint` turns a home into machines and wires (pure data). `init` builds them as network namespaces inside a user,
mount and PID namespace of their own and keeps them alive; `lab` is the handle on such a lab from outside. `servers`
are the programs of the internet and of the clients, `asking` what a person at a client would try, `check` holds the
home's expectations against the kernel, `capture` listens on a wire.

The lab runs the gateway as a user would, through its command line. It never imports `sidegate.gateway`.
"""
