"""The machine that we run on: what it is, and the small ways in which it is changed and put back."""
