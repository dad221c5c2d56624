"""yamux: many streams on one connection, each with its own window."""
