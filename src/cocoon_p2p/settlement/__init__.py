"""Vouchers and balances: the port `Settlement` (port.py) and the `local` network of play money behind it (local.py)."""
