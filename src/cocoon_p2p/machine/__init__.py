"""The machine that the node runs on: its load, temperature, power, and whether somebody uses it."""
