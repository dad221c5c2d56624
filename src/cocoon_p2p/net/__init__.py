"""The network: the port `Network` (port.py), and libp2p and a simulation behind it."""
