"""Noise: the handshake that authenticates a connection, and the session that encrypts it."""
