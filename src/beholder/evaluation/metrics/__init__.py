"""Scoring rules, each reproduced from a named file; they know no rows, files or models."""
