"""What goes where: rules and list files as one policy, and what it says of a packet. Pure, but for reading files."""
