"""The prepare stage as a component."""
