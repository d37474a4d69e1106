"""The table of compression recipes: each against its teacher and its control (docs/measured)."""
