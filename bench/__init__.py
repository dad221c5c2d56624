"""Benchmarks: what a job costs here beside the same work without cocoon_p2p. See bench/README.md."""
