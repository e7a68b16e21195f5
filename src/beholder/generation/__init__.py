"""From input tensors to token ids. Knows nothing of text, files, pictures or model families."""
