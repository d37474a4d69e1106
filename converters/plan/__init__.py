"""Lowering: torch module -> exported graph -> a flat list of NumPy steps, in small passes.

capture -> translate -> attention -> projections -> activations -> norms -> pack -> buffers -> write
"""
