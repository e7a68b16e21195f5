"""Serving over HTTP: an OpenAI-compatible API and a web page in one process. Needs the extra `serve`."""
