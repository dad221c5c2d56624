"""Makes the vectors, independently of the package: see ../generate.py."""
