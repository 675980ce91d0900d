"""The one process that stays: its loop, what it tells, and the parts that it turns."""
