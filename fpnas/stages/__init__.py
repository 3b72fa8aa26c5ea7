"""The stages of the pipeline, one file each: its configuration and what it does."""
