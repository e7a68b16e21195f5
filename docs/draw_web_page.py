"""Takes pictures/web-page.png: the page of `beholder serve`, where the built-in model answered with a box.

    python docs/draw_web_page.py

Needs Chromium, as the tests of the page do. What is shown is what was answered; only the colours are reduced,
to keep the file small.
"""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

HERE = Path(__file__).resolve().parent
OUT = HERE / "pictures" / "web-page.png"
SHAPES = HERE.parent / "examples" / "shapes.png"
QUESTIONS = ("What shape is red?", "Where is the blue square?")
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 900  # seconds; a busy machine
WIDTH, HEIGHT, AROUND = 1000, 1300, 12  # pixels


def main() -> None:
    """Serve, ask, take the picture."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "beholder", "serve", "--port", str(port)])
    try:
        wait_for(f"http://127.0.0.1:{port}/ready")
        reduced(taken(f"http://127.0.0.1:{port}")).save(OUT, optimize=True)
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    """Return when the server has answered a question of its own."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{url} did not answer in {PATIENCE} seconds")


def taken(url: str) -> Image.Image:
    """The page from the model's name to the end of the conversation, after the last answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US")
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(url)
        page.wait_for_selector("#model-note .note")
        for number, question in enumerate(QUESTIONS):
            ask(page, question, SHAPES if number == 0 else None)
        page.wait_for_timeout(1000)  # what slides in has arrived
        told = io.BytesIO(page.screenshot(clip=between(page, "#model", "#chat")))
        browser.close()
    return Image.open(told)


def ask(page: Any, question: str, picture: Path | None) -> None:
    """Send a question and wait for its answer."""
    if picture is not None:
        page.set_input_files("#box input[type=file]", [str(picture)])
        page.wait_for_selector("#box .thumbnails .thumbnail-item")
    before = page.locator("#chat .bot").count()
    page.fill("#box textarea", question)
    page.press("#box textarea", "Enter")
    page.wait_for_function(
        "([count]) => document.querySelectorAll('#chat .bot').length > count"
        " && document.querySelector('#note')?.innerText.includes('tokens out')",
        arg=[before],
    )


def between(page: Any, first: str, last: str) -> dict[str, float]:
    """The part of the page from one element to another, with a little around it."""
    top, bottom = page.locator(first).bounding_box(), page.locator(last).bounding_box()
    start = top["y"] - AROUND
    return {"x": 0, "y": start, "width": WIDTH, "height": bottom["y"] + bottom["height"] + AROUND - start}


def reduced(picture: Image.Image) -> Image.Image:
    """The same in 128 colours."""
    return picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
