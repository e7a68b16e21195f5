"""A large model served by vLLM and shown by Beholder's web page.

Not run by the tests: vLLM needs a GPU and a torch of its own. Start, each in an environment of its own,

    vllm serve llava-hf/llava-1.5-7b-hf
    beholder web --api http://127.0.0.1:8000/v1

An original checkpoint becomes one that vLLM opens by `beholder convert SRC DST --to llava-hf`. Below, the
same server asked from Python.
"""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
picture = {"type": "image_url", "image_url": {"url": "https://llava-vl.github.io/static/images/view.jpg"}}
question = {"type": "text", "text": "What should I be careful about here?"}
answer = client.chat.completions.create(
    model="llava-hf/llava-1.5-7b-hf", messages=[{"role": "user", "content": [picture, question]}]
)
print(answer.choices[0].message.content)
