"""One question about one picture: python examples/ask.py [PICTURE QUESTION [MODEL]]"""

import sys

import beholder

picture, question, model = (*sys.argv[1:], *(None,) * 3)[:3]
vlm = beholder.load(model)  # None is the model in the package
answer = vlm.ask(picture or "examples/shapes.png", question or "What shape is red?")
print(answer.text)
print(
    f"{answer.usage.prompt_tokens} tokens read, {answer.usage.picture_tokens} of them the picture's; "
    f"ended by {answer.finish_reason}",
    file=sys.stderr,
)
