"""The paths through the house, one file each, readable from top to bottom: steps that the worker loops over."""
