"""Signatures, and plaintext to sealed envelopes and streams and back. Nothing hand-made below `cryptography`; no IO."""
