"""Byte pipes between machines, and how they become authenticated, multiplexed connections."""
