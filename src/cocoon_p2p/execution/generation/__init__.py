"""Generating text in a worker process: from a request to tokens, for many answers at once (continuous batching)."""
