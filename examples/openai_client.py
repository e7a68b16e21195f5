"""A running `beholder serve`, asked with OpenAI's own client: python examples/openai_client.py [URL]"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=url, api_key="none", max_retries=0)
model = client.models.list().data[0].id
picture = base64.b64encode(Path("examples/shapes.png").read_bytes()).decode()
content = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    {"type": "text", "text": "What shape is red?"},
]
messages = [{"role": "user", "content": content}]
answer = client.chat.completions.create(model=model, messages=messages, max_tokens=32)
print(answer.choices[0].message.content)
for event in client.chat.completions.create(model=model, messages=messages, max_tokens=32, stream=True):
    if event.choices:
        print(event.choices[0].delta.content or "", end="", flush=True)
print()
