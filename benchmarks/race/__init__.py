"""The race: peers and our engines, interleaved, text in to embedding out (docs/race.md)."""
