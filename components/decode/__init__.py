"""The decode stage as a component."""
