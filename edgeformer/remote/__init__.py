"""Measuring on a board over ssh: the user's own `ssh`, and Python with NumPy on the other side."""
