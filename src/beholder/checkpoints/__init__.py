"""Checkpoints on disk: what they hold, whether they fit a model, and their layouts back and forth."""
