"""Building blocks that make a model small: functions over the modules of edgeformer.models."""
