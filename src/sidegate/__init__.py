"""Sidegate: a bypass gateway (旁路由) done right, a lab that builds homes on the real kernel."""

__version__ = "0.1.0"
