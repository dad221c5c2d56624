"""Bytes to frozen message dataclasses and back, one file a protocol. No IO, no clocks, no cryptography but SHA-256.

Whatever bytes they get, the decode functions return a message or raise `RemoteProtocolError` with one of these codes
(protocols/README.md, "Result codes"): MALFORMED, UNKNOWN_TAG, BOUND; and, where a time is checked, EXPIRED.
"""
