"""The server over many machines: a controller takes the requests, workers on Ray answer them.

`asking.py`, `fleet.py`, `deploying.py`, `routing.py` and `start.py` are the only modules that import ray.
"""
