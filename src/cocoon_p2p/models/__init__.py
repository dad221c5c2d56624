"""Models as content: manifests, and content-addressed files on disk."""
