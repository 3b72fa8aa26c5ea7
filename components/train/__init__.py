"""The train stage as a component."""
