"""The stages as KFP components: thin, since the work is in the package's stages."""
