"""`load()` and `VLM`: from a folder, a picture and a question to an answer with its counts."""

from __future__ import annotations

import base64
import gc
import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.scripted_engine import scripted
from tests.tiny_checkpoint import SLOTS, make_tiny_checkpoint

import beholder
from beholder import VLM, Box, CapacityError, CheckpointError, ConfigError, InputError, Message
from beholder.api import checkpoint_folder
from beholder.processing.images import open_picture

RED = Image.new("RGB", (40, 20), "red")
CONTEXT = 192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VLM:
    return beholder.load(folder, device="cpu")


def ids(vlm: VLM, text: str) -> list[int]:
    return vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def say(vlm: VLM, monkeypatch: pytest.MonkeyPatch, tokens: list[int]) -> list[int]:
    """Let the engine say these tokens, to know the answer; the list tells how many were asked for."""
    asked: list[int] = []

    def submit(_inputs: object, sampling: beholder.Sampling, terminators: tuple[int, ...], _mask: object):
        return scripted(tokens, sampling, terminators, asked)

    monkeypatch.setattr(vlm.engine, "submit", submit)
    return asked


def exhaust(generator) -> None:
    while True:
        next(generator)


def test_ask_counts_what_it_did(vlm: VLM):
    answer = vlm.ask(RED, "What is this?", max_tokens=5)
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.picture_tokens == SLOTS
    prompt = vlm.processor.encode([Message.user(RED, "What is this?")])["input_ids"]
    assert answer.usage.prompt_tokens == prompt.shape[1]
    assert 0 < answer.timings.prepared <= answer.timings.first_token <= answer.timings.total


def test_a_question_without_a_picture(vlm: VLM):
    assert vlm.ask(None, "Hello?", max_tokens=3).usage.picture_tokens == 0


def test_every_way_to_ask_gives_one_answer(vlm: VLM, tmp_path: Path):
    RED.save(tmp_path / "red.png")
    held = io.BytesIO()
    RED.save(held, "PNG")
    url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
    texts = {
        vlm.ask(RED, "What?", max_tokens=8).text,
        vlm.ask(str(tmp_path / "red.png"), "What?", max_tokens=8).text,
        vlm.ask(tmp_path / "red.png", "What?", max_tokens=8).text,
        vlm.ask(held.getvalue(), "What?", max_tokens=8).text,
        vlm.chat([{"role": "user", "content": parts}], max_tokens=8).text,
        vlm.chat([Message.user(RED, "What?")], max_tokens=8).text,
        "".join(vlm.stream([Message.user(RED, "What?")], max_tokens=8)),
    }
    assert len(texts) == 1


def test_pieces_make_the_answer(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    end = vlm.processor.terminators[0]
    said = ids(vlm, "  There are three 圆形。 \n")
    say(vlm, monkeypatch, [*said, end])
    stream = vlm.stream("How many?")
    pieces = list(stream)
    assert "".join(pieces) == stream.answer.text == "There are three 圆形。"
    assert len(pieces) > 3
    assert stream.answer.finish_reason == "stop"
    assert stream.answer.usage.completion_tokens == len(said) + 1


def test_the_answer_is_also_what_the_iterator_returns(vlm: VLM):
    def outer():
        return (yield from vlm.stream("Hi", max_tokens=3))

    generator = outer()
    with pytest.raises(StopIteration) as ended:
        exhaust(generator)
    assert isinstance(ended.value.value, beholder.Answer)


def test_a_stop_string_ends_the_answer(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    asked = say(vlm, monkeypatch, ids(vlm, "a red star. A blue star."))
    stream = vlm.stream("What?", stop=(". A",))
    assert "".join(stream) == stream.answer.text == "a red star"
    assert stream.answer.finish_reason == "stop"
    assert len(asked) < len(ids(vlm, "a red star. A blue star."))


def test_max_tokens_ends_the_answer(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    say(vlm, monkeypatch, ids(vlm, "a red star and more"))
    answer = vlm.chat("What?", max_tokens=2)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 2)


def test_closing_cancels(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    asked = say(vlm, monkeypatch, ids(vlm, "one two three four five"))
    with vlm.stream("Count!") as stream:
        first = next(stream)
    assert stream.answer.text == first
    assert stream.answer.finish_reason == "cancelled"
    assert len(asked) == stream.answer.usage.completion_tokens < 5
    assert list(stream) == []


def test_an_unfinished_answer_is_not_given(vlm: VLM):
    stream = vlm.stream("Hi", max_tokens=3)
    with pytest.raises(RuntimeError, match="not complete"):
        _ = stream.answer


def test_boxes_are_pixels_of_the_original_picture(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    """A picture of 40 x 20 is padded to 40 x 40 with 10 rows above: fractions are of that square."""
    say(vlm, monkeypatch, ids(vlm, "here [[250,500,500,625]]"))
    answer = vlm.ask(RED, "Where?")
    assert answer.boxes == (Box(10.0, 10.0, 20.0, 15.0, 0),)


def test_boxes_belong_to_the_last_picture(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    say(vlm, monkeypatch, ids(vlm, "[[000,000,500,500]]"))
    square = Image.new("RGB", (10, 10))
    conversation = [Message.user(RED, "a"), Message.assistant("b"), Message.user(square, "c")]
    assert vlm.chat(conversation).boxes == (Box(0, 0, 5.0, 5.0, 1),)
    assert vlm.chat("no picture").boxes == ()


def test_boxes_end_at_the_edge(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    say(vlm, monkeypatch, ids(vlm, "[[000,000,500,999]]"))
    (box,) = vlm.ask(RED, "Where?").boxes
    assert (box.y1, box.y2) == (0, 20)


def test_a_prompt_that_does_not_fit_is_refused(vlm: VLM):
    with pytest.raises(
        InputError, match=rf"the prompt is \d+ tokens \({SLOTS} of them picture\).* limit is {CONTEXT}"
    ):
        vlm.ask(RED, "x" * 2 * CONTEXT)


def test_the_answer_ends_where_the_context_does(vlm: VLM):
    answer = vlm.ask(RED, "x" * 100, max_tokens=10_000)
    assert answer.finish_reason == "length"
    assert answer.usage.total_tokens == CONTEXT


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question(vlm: VLM, question):
    with pytest.raises(InputError, match="the question is empty"):
        vlm.ask(RED, question)
    with pytest.raises(InputError, match="the question is empty"):
        vlm.stream(question)


def test_what_is_wrong_is_raised_before_the_first_piece(vlm: VLM):
    with pytest.raises(InputError, match="no such file"):
        vlm.stream([{"role": "user", "content": [{"type": "image", "path": "/nowhere.png"}]}])
    with pytest.raises(InputError, match="temprature"):
        vlm.stream("Hi", temprature=1)


def test_threads_do_not_disturb_each_other(vlm: VLM):
    questions = [f"What is {number}?" for number in range(6)]
    alone = [vlm.ask(RED, question, max_tokens=6).text for question in questions]
    together: dict[str, str] = {}

    def run(question: str) -> None:
        together[question] = vlm.ask(RED, question, max_tokens=6).text

    threads = [threading.Thread(target=run, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[question] for question in questions] == alone


def test_two_streams_of_one_thread_take_turns(vlm: VLM):
    one, two = vlm.stream("One?", max_tokens=6), vlm.stream("Two?", max_tokens=6)
    next(one)
    next(two)
    assert "".join(one) != ""
    two.close()


def test_a_second_turn_on_the_same_picture_is_cheap(vlm: VLM):
    """What the first turn computed is not computed again: neither picture nor question nor answer."""
    first = [Message.user(RED, "Where is the dog?")]
    answer = vlm.chat(first, max_tokens=12)
    run = vlm.engine.stats().pictures_run
    again = vlm.chat([*first, Message.assistant(answer.text), Message.user("And?")], max_tokens=2)
    assert vlm.engine.stats().pictures_run == run
    assert again.usage.cached_tokens >= answer.usage.prompt_tokens // 16 * 16 - 16
    assert again.timings.tower == 0


def test_what_an_answer_cost(vlm: VLM):
    vlm.engine.forget()
    answer = vlm.ask(RED, "What is this?", max_tokens=5)
    timings = answer.timings
    assert answer.usage.cached_tokens == 0
    assert 0 < timings.tower < timings.prefill < timings.first_token
    assert timings.queue > 0
    assert 0 < 4 * timings.per_token < timings.total


def test_scores_come_with_the_tokens(vlm: VLM):
    answer = vlm.ask(RED, "What is this?", max_tokens=5, logprobs=2)
    assert len(answer.scores) == 5
    for score in answer.scores:
        assert score.likeliest[0] == (score.token, score.logprob)
        assert score.likeliest[1][1] <= score.logprob < 0
    assert vlm.ask(RED, "What is this?", max_tokens=5).scores == ()


def test_several_answers_read_the_prompt_once(vlm: VLM):
    vlm.engine.forget()
    before = vlm.engine.stats()
    answers = vlm.choices([Message.user(RED, "Tell me!")], 3, temperature=1.5, seed=4, max_tokens=6)
    after = vlm.engine.stats()
    assert after.pictures_run - before.pictures_run == 1
    prompt = answers[0].usage.prompt_tokens
    assert after.prompt_tokens - before.prompt_tokens <= prompt + 2 * 16
    alone = [vlm.ask(RED, "Tell me!", temperature=1.5, seed=4 + n, max_tokens=6).text for n in range(3)]
    assert [answer.text for answer in answers] == alone
    with pytest.raises(InputError, match="n is 0"):
        vlm.choices("Hi", 0)


def test_a_stop_id_and_ends_that_are_ignored(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    end = vlm.processor.terminators[0]
    said = ids(vlm, "one two")
    say(vlm, monkeypatch, [*said, end, *said])
    assert vlm.chat("Go!", ignore_eos=True, max_tokens=20).text == "one twoone two"
    assert vlm.chat("Go!", stop_ids=(said[2],)).usage.completion_tokens == said.index(said[2]) + 1


def test_a_mask_limits_what_is_said(vlm: VLM):
    (yes,) = ids(vlm, "y")
    allowed = torch.zeros(len(vlm.processor.tokenizer), dtype=torch.bool)
    allowed[yes] = True
    with vlm.stream("Is it?", mask=lambda said: None if said else allowed, max_tokens=1) as stream:
        assert "".join(stream) == "y"


def test_submitted_questions_are_answered_unread(folder: Path):
    vlm = beholder.load(folder, device="cpu")
    streams = [vlm.submit(f"What is {number}?", max_tokens=6) for number in range(3)]
    for _ in range(2000):
        if vlm.engine.stats().finished == 3:
            break
        time.sleep(0.01)
    assert vlm.engine.stats().finished == 3
    texts = [stream.read().text for stream in streams]
    assert texts == [vlm.chat(f"What is {number}?", max_tokens=6).text for number in range(3)]
    vlm.close()
    with pytest.raises(RuntimeError, match="closed"):
        vlm.stream("More?")


def test_an_abandoned_stream_leaves(vlm: VLM):
    stream = vlm.stream("Hi", max_tokens=50)
    next(stream)
    assert vlm.engine.stats().running == 1
    del stream
    gc.collect()
    assert vlm.engine.stats().running == 0


def test_unknown_models(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no folder 'nonesuch'"):
        beholder.load("nonesuch")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        beholder.load(tmp_path)


def damaged(folder: Path, target: Path, name: str, text: str | None) -> Path:
    """A copy of the folder in which one file holds another text, or is not there."""
    shutil.copytree(folder, target)
    if text is None:
        (target / name).unlink()
    else:
        (target / name).write_text(text)
    return target


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("tokenizer.json", None, r"copy has no tokenizer \(none of tokenizer\.json, "),
        ("tokenizer.json", "{", r"tokenizer\.json is not valid JSON; fetch it again"),
        ("tokenizer.json", "{}", r"the tokenizer or the picture settings in .*copy cannot be opened: "),
        ("tokenizer_config.json", "[", r"tokenizer_config\.json is not valid JSON"),
        ("processor_config.json", "", r"processor_config\.json is not valid JSON"),
    ],
)
def test_damaged_files_beside_the_weights(folder: Path, tmp_path: Path, name, text, sentence):
    with pytest.raises(CheckpointError, match=sentence) as caught:
        beholder.load(damaged(folder, tmp_path / "copy", name, text), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", "large"), ("hidden_size", 27), ("num_attention_heads", 0), ("vocab_size", -1)],
)
def test_a_configuration_of_impossible_values(folder: Path, tmp_path: Path, key, value):
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    with pytest.raises(ConfigError, match=r"no model can be built from .*config\.json: ") as caught:
        beholder.load(damaged(folder, tmp_path / "copy", "config.json", json.dumps(config)), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_whole_model_has_no_base(folder: Path):
    with pytest.raises(ConfigError, match=r"is a whole 360VL model, which has no base; leave the base out"):
        beholder.load(folder, base="owner/name", device="cpu")


def test_a_picture_from_a_camera_is_turned_once(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opened by the caller, by `ask`, or by a command before it: always the same picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.effect_noise((40, 20), 80).convert("RGB")
    picture.save(tmp_path / "camera.png", exif=exif)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    wanted = vlm.processor.encode([Message.user(upright, "?")])["pixel_values"]
    seen: list[torch.Tensor] = []
    encode = vlm.processor.encode

    def watched(messages: tuple[Message, ...]) -> object:
        made = encode(messages)
        seen.append(made["pixel_values"])
        return made

    monkeypatch.setattr(vlm.processor, "encode", watched)
    for shown in (tmp_path / "camera.png", Image.open(tmp_path / "camera.png")):
        vlm.ask(shown, "?", max_tokens=1)
        vlm.ask(open_picture(shown), "?", max_tokens=1)
        vlm.chat([Message.user(shown, "?")], max_tokens=1)  # type: ignore[arg-type]
    assert len(seen) == 6
    assert all(torch.equal(pixels, wanted) for pixels in seen)


def test_memory_that_runs_out(vlm: VLM, monkeypatch: pytest.MonkeyPatch):
    def encode(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(vlm.processor, "encode", encode)
    with pytest.raises(CapacityError, match="memory ran out with the pictures being prepared; use smaller"):
        vlm.ask(RED, "What?")


def test_unknown_devices(folder: Path):
    with pytest.raises(ConfigError, match=r"'cuda:99' is not here; available: .*cpu"):
        beholder.load(folder, device="cuda:99")
    with pytest.raises(ConfigError, match="dtype 'int3' is unknown"):
        beholder.load(folder, dtype="int3")


def test_the_built_in_model_has_two_names():
    assert checkpoint_folder() == checkpoint_folder("beholder-mini")
