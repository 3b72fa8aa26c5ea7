"""Checks of what a cluster is given, before it is given: `python -m validation`."""
