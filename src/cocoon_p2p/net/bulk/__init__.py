"""Data sockets: a second TCP connection to the same port, for the bodies of large frames (protocols/data/1/spec.md)."""
