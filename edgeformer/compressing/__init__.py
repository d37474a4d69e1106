"""From a request to a small model: what compress does around the trainer."""
