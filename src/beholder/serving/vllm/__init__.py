"""vLLM as the engine of `beholder serve`: prompts and pictures stay ours, the language model is vLLM's.

`plugin.py` and `text.py` run inside vLLM's processes; nothing else here imports vllm, which may live in an
environment of its own.
"""
