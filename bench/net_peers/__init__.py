"""The two ends of each network stack that `net` compares: programs that are driven by JSON lines (lines.py)."""
