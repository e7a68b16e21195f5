"""How fast a model answers on this machine, beside transformers in the same run."""
