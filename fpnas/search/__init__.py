"""The search: its loop, what it evaluates architectures with, and how it ends."""
