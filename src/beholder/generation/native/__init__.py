"""The decode step of a Llama-like trunk as one native call, optional at install: see `docs/native-decode.md`.

Prefill stays with PyTorch, which is also the slow twin that every number here is held to.
"""
