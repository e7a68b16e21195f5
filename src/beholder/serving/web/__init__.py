"""The web page: a client of an OpenAI-compatible API, in Gradio. It never reaches into the engine."""
