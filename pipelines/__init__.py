"""The pipeline: its definition, how a run is planned, and the engines that run it."""
