"""Measurements that the documentation quotes; each is one command. See bench/README.md."""
