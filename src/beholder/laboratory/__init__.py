"""The architecture laboratory: four published ideas at one small size, trained and scored alike.

`subjects.py` makes the four untrained models, `materials.py` the pictures, `experiment.py` runs what is to be
run and goes on where it was stopped, `measuring.py` counts and times, `summary.py` reads finished records.
"""
