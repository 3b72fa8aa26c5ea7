"""The coarse stage as a component."""
