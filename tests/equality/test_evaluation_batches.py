"""Batched answers equal the answers of `VLM.chat`, one conversation at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from tests.parity.golden_cogvlm import FOLDER as COGVLM
from tests.tiny_checkpoint import make_tiny_checkpoint

import beholder
from beholder.core.errors import InputError
from beholder.core.types import Message
from beholder.evaluation.batches import answer_batch, answer_one
from beholder.evaluation.task import Reply

LONGEST = 12
QUESTIONS = (
    "Is it red?",
    "How many stars are there in all?",
    "有几个圆形？",
    "Where?",
    "What is written here?",
)
Conversations = list[list[Message]]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer) -> beholder.VLM:
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), llama3_tokenizer)
    return beholder.load(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = torch.randint(
        0, 256, (2, 40, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    return [Image.fromarray(pixels.numpy()) for pixels in noise]


def about(pictures: list[Image.Image], *places: int) -> Conversations:
    """Different questions, each about the picture at one of the places."""
    return [
        [Message.user(pictures[place], question)] for place, question in zip(places, QUESTIONS, strict=False)
    ]


def second_picture_later(pictures: list[Image.Image]) -> Conversations:
    """The second picture stands behind words that differ, so it is no part of what is shared."""
    return [
        [Message.user(pictures[0], "One?"), Message.assistant(said), Message.user(pictures[1], "And this?")]
        for said in ("Yes.", "No, it is not.")
    ]


BATCHES: dict[str, Callable[[list[Image.Image]], Conversations]] = {
    "one picture": lambda p: about(p, 0, 0, 0, 0, 0),
    "two pictures": lambda p: about(p, 0, 1, 1, 0, 1),
    "a picture for each": lambda p: about(p, 0, 1),
    "equal questions": lambda p: about(p, 0) + about(p, 0) + about(p, 1),
    "no picture": lambda p: [[Message.user(question)] for question in QUESTIONS],
    "with and without a picture": lambda p: [*about(p, 0, 1), [Message.user("Is it red?")]],
    "pictures far apart": second_picture_later,
}


def together(vlm: beholder.VLM, conversations: Conversations) -> list[Reply]:
    """As a batch, with nothing kept from those that were asked alone."""
    vlm.engine.forget()
    return answer_batch(vlm, conversations, LONGEST)


def said(replies: list[Reply]) -> list[tuple[object, ...]]:
    return [(reply.text, reply.boxes, reply.tokens) for reply in replies]


@pytest.mark.parametrize("name", BATCHES)
def test_same_answers_as_one_by_one(vlm, pictures, name):
    conversations = BATCHES[name](pictures)
    alone = [answer_one(vlm, messages, LONGEST) for messages in conversations]
    assert said(together(vlm, conversations)) == said(alone)


def test_rows_end_one_after_the_other(vlm, pictures, monkeypatch):
    conversations = about(pictures, 0, 1, 0, 1, 0)
    ids = [said_ids(vlm, messages) for messages in conversations]
    ends = (ids[0][2], ids[1][5])
    monkeypatch.setattr(type(vlm.processor), "terminators", ends)
    alone = [answer_one(vlm, messages, LONGEST) for messages in conversations]
    assert len({reply.tokens for reply in alone}) > 1, "all rows end together, so this shows nothing"
    assert said(together(vlm, conversations)) == said(alone)


def test_a_shared_picture_is_seen_once(vlm, pictures):
    seen: list[int] = []
    tower = vlm.model.get_submodule("model.vision_tower.embeddings")
    handle = tower.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    vlm.engine.forget()
    answer_batch(vlm, about(pictures, 0, 1, 1, 0, 1), 2)
    handle.remove()
    assert sum(seen) == 2 * 5  # two pictures of five views


def test_an_answer_ends_where_the_context_does(vlm, pictures):
    """Near the end of the context an answer is cut short there, as `VLM.chat` does it."""
    question = "Is it red? " * 14
    conversations = [[Message.user(pictures[0], question)], [Message.user(pictures[1], "Where?")]]
    length = vlm.processor.encode(conversations[0])["input_ids"].shape[1]
    longest = vlm.context - length + 5
    replies = answer_batch(vlm, conversations, longest)
    assert [reply.tokens for reply in replies] == [vlm.context - length, longest]


def said_ids(vlm: beholder.VLM, messages: list[Message]) -> list[int]:
    scores = vlm.chat(messages, max_tokens=LONGEST, logprobs=0).scores
    return [score.token for score in scores]


def test_after_a_wrong_one_nothing_is_left_running(vlm, pictures):
    wrong = [Message.user(pictures[0], "Is it red? " * 60)]
    with pytest.raises(InputError, match="192"):
        answer_batch(vlm, [*about(pictures, 0, 1), wrong], LONGEST)
    assert not vlm.engine.step(), "what was asked before it still runs"


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> beholder.VLM:
    """A model whose inputs say of each token what kind it is, and whose positions are shared."""
    folder = tmp_path_factory.mktemp("routed") / "model"
    shutil.copytree(COGVLM / "model", folder)
    for path in (COGVLM / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return beholder.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "pictures far apart"])
def test_the_same_with_types_of_tokens(routed, pictures, name):
    conversations = BATCHES[name](pictures)
    alone = [answer_one(routed, messages, LONGEST) for messages in conversations]
    assert said(together(routed, conversations)) == said(alone)
