"""What `fetch` and who starts it agree upon."""

LARGEST = 1 << 20
"""Bytes of a subscription: some 5,000 links."""
WITHIN_S = 30
"""All of it, from the question to the last byte."""
