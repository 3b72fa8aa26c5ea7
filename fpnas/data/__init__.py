"""Labelled pictures: prepared once into shards, then read in an order that can be resumed."""
