"""What a disk may hold after a power cut, from what programs did to their files."""
