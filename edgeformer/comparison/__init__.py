"""Bundles and reports side by side."""
