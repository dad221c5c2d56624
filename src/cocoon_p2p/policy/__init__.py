"""Decisions: facts in, a decision out. No IO, no clock, no randomness but what is handed in."""
