"""identify and ping: who the other end is, and whether it is there."""
