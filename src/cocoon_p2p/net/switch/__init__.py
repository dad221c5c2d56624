"""Connections: who may come in (gate.py and what it counts with: origins.py, bans.py, net/rates.py; inbound.py), how others are
reached (outbound.py, dialling.py), how a pipe becomes a connection (upgrade.py), which connections there are and which must
go (links.py, trimming.py), and their streams (streams.py). switch.py holds it together."""
