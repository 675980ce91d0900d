"""The router stands in for this box: clients are handed over and taken back, by a person or by the daemon."""
