"""All connections of one node: dialling, accepting, bounding, and the streams on them."""
