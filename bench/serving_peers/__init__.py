"""What runs inside other products' servers, each in an environment of its own (bench/serving_environments.py). Nothing of
cocoon_p2p is imported here."""
