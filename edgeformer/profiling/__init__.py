"""Where the time of a call goes: each engine's own clock, by layer and operation."""
