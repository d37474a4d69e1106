"""Building blocks that make a model small: functions over modules and over training data."""
