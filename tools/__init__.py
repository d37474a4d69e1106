"""What developers run by hand, and the emulated boards of the tests; not part of the wheel."""
