"""Measurements that the documentation quotes; each prints the machine it ran on."""
