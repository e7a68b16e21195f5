"""Scoring a model: tasks, a run that survives being killed, and score cards with intervals."""
