"""Pipes of bytes to other machines, before anything is encrypted, and how they are opened and accepted."""
