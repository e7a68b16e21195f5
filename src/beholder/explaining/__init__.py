"""Where in a picture a model looked for each token of its answer, as numbers and as one page of HTML."""

from beholder.explaining.explanation import Explanation, Said, explain
from beholder.explaining.page import render

__all__ = ["Explanation", "Said", "explain", "render"]
