"""Kademlia: records and providers, kept by the peers nearest to their keys."""
