"""The baseline stage as a component."""
