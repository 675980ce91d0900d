"""What goes where: the configuration's rules and list files as one policy, and what it says of a packet. Pure but lists."""
