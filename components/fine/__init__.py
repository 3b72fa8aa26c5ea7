"""The fine stage as a component."""
