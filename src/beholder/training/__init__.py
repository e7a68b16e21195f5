"""Training: rows become samples, a recipe becomes a stage, transformers' Trainer runs it."""
