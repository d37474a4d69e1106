"""Device profiles: one TOML per device and the dataclass that reads it."""
