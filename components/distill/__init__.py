"""The distill stage as a component."""
