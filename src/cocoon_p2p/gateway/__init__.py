"""Doors into a running node for programs on the same machine: HTTP on a Unix socket in its home folder."""
