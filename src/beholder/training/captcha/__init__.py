"""The example of CogVLM's document at a size for two cores: captchas, and a model that reads them."""
