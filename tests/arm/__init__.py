"""Tests on emulated boards (tools/emulator); run by `make test-arm`.

The host builds the wheel and the bundles; the scripts of scripts/ run on the board, with nothing
but that wheel and what the board has. The same scripts run on the host for its answers.
"""
