"""Bulk: large sealed transfers on a socket of their own beside the connection."""
