"""The register stage as a component."""
