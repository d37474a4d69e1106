"""Prepared module -> files for each engine: export, quantization, verification, bundle writer."""
