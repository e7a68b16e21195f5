"""The web page in Chromium, as somebody uses it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.fake_vlm import WORDS

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
SHAPES = ROOT / "examples" / "shapes.png"
QUESTION = "What shape is red?"
ANSWER = "".join(WORDS)
PATIENCE = 60_000  # ms; a busy machine
SCREENSHOTS = os.environ.get("BEHOLDER_SCREENSHOTS")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.web_server", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 400
        while time.monotonic() < until and process.poll() is None:
            try:
                if httpx.get(url + "/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            pytest.fail("the server did not become ready")
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS + CAMERA)
        yield opened
        opened.close()


class Visitor:
    """Somebody with the page open."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.elsewhere: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self._called(request.url))
        page.goto(url)
        page.wait_for_selector("#model-note .note")

    def _called(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(url)

    def choose(self, model: str, where: str = "#model") -> None:
        self.page.click(f"{where} input")
        self.page.click(f'li[role="option"][aria-label="{model}"]')

    def ask(self, question: str, *files: Any, box: str = "#box") -> None:
        if files:
            self.page.set_input_files(f"{box} input[type=file]", files)
            self.page.wait_for_selector(f"{box} .thumbnails .thumbnail-item >> nth={len(files) - 1}")
        self.page.fill(f"{box} textarea", question)
        self.page.press(f"{box} textarea", "Enter")

    def wait(self, text: str, where: str) -> None:
        self.page.wait_for_function(
            "([where, text]) => document.querySelector(where)?.innerText.includes(text)", arg=[where, text]
        )

    def wait_until(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE / 1000
        while not holds():
            assert time.monotonic() < until, "it did not come about"
            self.page.wait_for_timeout(100)

    def done(self, where: str = "#note") -> None:
        """The answer is whole: its figures are told, and there is nothing to stop any more."""
        self.wait("tokens out", where)
        stop = "#stop" if where == "#note" else "#both-stop"
        self.page.wait_for_function("stop => document.querySelector(stop).disabled", arg=stop)

    def shot(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


@pytest.fixture
def visitor(browser: Any, server: str) -> Iterator[Visitor]:
    context = browser.new_context(
        viewport={"width": 1200, "height": 900}, locale="en-US", permissions=["camera"]
    )
    came = Visitor(context.new_page(), server)
    yield came
    assert came.elsewhere == [], "the page asked other hosts for something"
    context.close()


def measured(server: str, name: str) -> float:
    """The sum of a metric over its labels."""
    told = httpx.get(server + "/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in told if line.startswith((name + " ", name + "{")))


def running(server: str) -> float:
    return measured(server, "beholder_requests_running")


def answered(server: str) -> float:
    return measured(server, "beholder_answers_total")


def test_the_built_in_model_answers(visitor):
    visitor.wait("beholder-mini is ready", "#model-note")
    visitor.ask(QUESTION, str(SHAPES))
    visitor.done()
    visitor.wait("Circle", "#chat")
    assert "128 of them pictures" in visitor.page.inner_text("#note")
    visitor.shot("answer")
    visitor.page.click('button[role="tab"]:has-text("Explain")')
    visitor.page.click("#show-explain")
    visitor.page.wait_for_selector("#prompt .prompt .picture")
    prompt = visitor.page.inner_text("#prompt .prompt")
    assert "<|start_header_id|>user<|end_header_id|>" in prompt
    assert QUESTION in prompt
    assert visitor.page.locator("#views .thumbnail-item").count() == 5
    visitor.wait("128 for pictures", "#counts")
    visitor.shot("explain")


def test_stop_and_regenerate(visitor, server):
    visitor.choose("fake")
    visitor.ask("slow please")
    visitor.wait("A red star", "#chat")
    visitor.page.click("#stop")
    visitor.wait("Stopped", "#note")
    until = time.monotonic() + 20
    while running(server) and time.monotonic() < until:
        time.sleep(0.1)
    assert running(server) == 0
    kept = visitor.page.inner_text("#chat")
    time.sleep(1)
    assert visitor.page.inner_text("#chat") == kept
    visitor.ask("Then?")
    visitor.done()
    before = answered(server)
    visitor.page.click("#again")
    visitor.wait_until(lambda: answered(server) == before + 1)
    visitor.done()
    assert visitor.page.inner_text("#chat").count("Then?") == 1


def test_the_last_question_is_edited_with_its_pictures_and_the_answer_copied(visitor):
    visitor.choose("fake")
    visitor.ask("First <b>&amp;", str(SHAPES))
    visitor.done()
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=visitor.url)
    visitor.page.click("#copy")
    visitor.wait_until(lambda: visitor.page.evaluate("navigator.clipboard.readText()") == ANSWER)
    visitor.page.click("#edit")
    visitor.page.wait_for_function("document.querySelector('#box textarea').value === 'First <b>&amp;'")
    visitor.page.wait_for_selector("#box .thumbnails .thumbnail-item")
    assert "First" not in visitor.page.inner_text("#chat")
    visitor.ask("Quick instead")
    visitor.done()
    visitor.wait("Quick instead", "#chat")
    visitor.wait(ANSWER, "#chat")
    assert "First" not in visitor.page.inner_text("#chat")
    assert visitor.page.locator("#chat img").count() == 2  # the question's, and the one with the box


def test_any_question_is_edited_in_the_chat(visitor):
    visitor.choose("fake")
    visitor.ask("First <b>&amp;", str(SHAPES))
    visitor.done()
    visitor.ask("Second")
    visitor.wait("Second", "#chat")
    visitor.done()
    # One for each question; they come with the answer, and a click before it is whole is lost.
    buttons = visitor.page.locator('#chat button[aria-label="Edit"], #chat button[title="Edit"]')
    visitor.wait_until(lambda: buttons.count() == 2)
    buttons.first.click()
    area = visitor.page.locator("#chat textarea.edit-textarea")
    assert area.input_value() == "First &lt;b&gt;&amp;amp;"
    area.fill("Third &lt;i&gt; <u>")
    visitor.shot("edited")
    visitor.page.locator('#chat button[title="Submit"], #chat button[aria-label="Submit"]').click()
    visitor.wait("Third <i> <u>", "#chat")
    visitor.wait(ANSWER, "#chat")
    visitor.done()
    shown = visitor.page.inner_text("#chat")
    assert "First" not in shown
    assert "Second" not in shown
    assert visitor.page.locator("#chat img").count() == 2  # the question's, and the one with the box


def test_the_last_answer_is_asked_for_again_in_the_chat(visitor, server):
    """Gradio has the button at the last answer; it must come to that answer's question, past the picture."""
    visitor.choose("fake")
    visitor.ask("First")
    visitor.done()
    visitor.ask("Second", str(SHAPES))
    visitor.wait("Second", "#chat")
    visitor.done()
    before = answered(server)
    retry = visitor.page.locator('#chat button[aria-label="Retry"], #chat button[title="Retry"]')
    assert retry.count() == 1
    retry.click()
    visitor.wait_until(lambda: answered(server) == before + 1)
    visitor.done()
    shown = visitor.page.inner_text("#chat")
    assert [shown.count(text) for text in ("First", "Second", ANSWER)] == [1, 1, 2]
    assert shown.index("First") < shown.index(ANSWER) < shown.index("Second") < shown.rindex(ANSWER)
    assert visitor.page.locator("#chat img").count() == 2  # the question's, and the one with the box
    visitor.shot("retried")
    visitor.ask("Third")
    visitor.wait("Third", "#chat")
    visitor.done()


def test_boxes_are_on_the_picture(visitor, tmp_path):
    file = tmp_path / "white.png"
    Image.new("RGB", (60, 40), "white").save(file)
    visitor.choose("fake")
    visitor.ask("Where?", str(file))
    visitor.done()
    shown = visitor.page.locator("#chat img").last
    with Image.open(io.BytesIO(visitor.page.request.get(shown.get_attribute("src")).body())) as drawn:
        assert drawn.size == (60, 40)
        assert drawn.convert("RGB").getpixel((20, 15)) == (0xD5, 0x5E, 0x00)
        assert drawn.convert("RGB").getpixel((50, 35)) == (255, 255, 255)
    visitor.shot("boxes")


def test_side_by_side(visitor):
    visitor.page.click('button[role="tab"]:has-text("Side by side")')
    visitor.choose("fake", "#left-model")
    visitor.choose("other", "#right-model")
    visitor.ask("Which?", str(SHAPES), box="#both")
    for side in ("left", "right"):
        visitor.done(f"#{side}-note")
        assert ANSWER in visitor.page.inner_text(f"#{side}")
    visitor.shot("side-by-side")


def test_errors_tell_their_cause_and_nothing_is_lost(visitor):
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": SHAPES.read_bytes()[:200]}
    visitor.ask("What?", bad)
    visitor.wait("bad.png cannot be used: the picture is truncated or damaged", "#note .bad")
    assert visitor.page.input_value("#box textarea") == "What?"
    visitor.shot("bad-file")
    visitor.page.click("#clear")
    visitor.choose("fake")
    visitor.ask("refuse this")
    visitor.wait("this question is refused (status 400)", "#note .bad")
    visitor.page.wait_for_function("document.querySelector('#box textarea').value === 'refuse this'")


def test_export_and_import(visitor, tmp_path):
    visitor.choose("fake")
    visitor.ask("Keep <b>this</b>", str(SHAPES))
    visitor.done()
    with visitor.page.expect_download() as coming:
        visitor.page.click("#export")
    file = tmp_path / "conversation.json"
    coming.value.save_as(file)
    (turn,) = json.loads(file.read_text("utf-8"))["turns"]
    assert (turn["question"], turn["answer"], len(turn["pictures"])) == ("Keep <b>this</b>", ANSWER, 1)
    visitor.page.click("#clear")
    visitor.page.wait_for_function("!document.querySelector('#chat').innerText.includes('Keep')")
    visitor.page.set_input_files("input[type=file][accept='.json']", str(file))
    visitor.wait("Keep <b>this</b>", "#chat")
    visitor.wait("1 questions", "#note")


def test_a_phone_in_chinese_and_dark(browser, server):
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, locale="zh-CN", color_scheme="dark", has_touch=True
    )
    visitor = Visitor(context.new_page(), server)
    visitor.wait("设置", "#settings")
    visitor.wait("已就绪", "#model-note")
    width = visitor.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    title = visitor.page.locator("#title h1").bounding_box()
    assert title
    assert title["height"] < title["width"]
    assert visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.shot("phone")
    visitor.page.click("#dark")
    assert not visitor.page.evaluate("document.body.classList.contains('dark')")
    context.close()


def test_the_camera(visitor):
    visitor.page.click("#camera-fold button")
    visitor.page.click('#camera button:has-text("Webcam"), #camera button[title="grant webcam access"]')
    # On a busy machine the button is there before the camera's first picture is.
    visitor.page.wait_for_function(
        "[...document.querySelectorAll('#camera video')].some(v => v.videoWidth > 0 && v.readyState >= 2)"
    )
    visitor.page.click('#camera button[aria-label="capture photo"]')
    visitor.page.wait_for_selector("#box .thumbnails .thumbnail-item")
    visitor.shot("camera")
