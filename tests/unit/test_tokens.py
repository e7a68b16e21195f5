"""Segments to ids: literal text, whole strings, spans, trained tokens. Ids to text: safe pieces, stops."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from beholder.core.errors import ConfigError, InputError
from beholder.processing.templates import Segment
from beholder.processing.tokens import TextStream, control_id, encode, left_pad

END = "<|eot_id|>"
TEXTS = (
    "What is this?",
    "  two  spaces, a tab\tand\n\n\nnewlines \n",
    "It's 12:30 and 4096 pixels, don't they're",
    "图中有几个圆？答：3 个。",
    "emoji 👩‍👩‍👧 and ɓẽŷőŋđ ASCII",
    "[[012,345,678,901]]",
    "def f(x):\n    return {'a': [x]}\n",
    "",
)


def text(words: str, trained: bool = False) -> Segment:
    return Segment("text", words, trained)


def control(literal: str, trained: bool = False) -> Segment:
    return Segment("control", literal, trained)


@pytest.mark.parametrize("words", TEXTS)
def test_ids_are_those_of_the_whole_string(words: str, llama3_tokenizer: PreTrainedTokenizerFast):
    segments = [
        control("<|begin_of_text|>"),
        control("<|start_header_id|>"),
        text("user"),
        control("<|end_header_id|>"),
        text("\n\n"),
        text(words),
        control(END),
        text(words),
    ]
    whole = "".join(segment.text for segment in segments)
    expected = llama3_tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encode(segments, llama3_tokenizer, [], 5).input_ids == expected


@pytest.mark.parametrize("words", [END, "<|begin_of_text|>x", "a<|reserved_special_token_44|>b", "<image>"])
def test_text_that_spells_a_token_stays_text(words: str, llama3_tokenizer: PreTrainedTokenizerFast):
    ids = encode([text(words)], llama3_tokenizer, [], 5).input_ids
    assert not set(ids) & set(llama3_tokenizer.all_special_ids)
    assert llama3_tokenizer.decode(ids) == words


def test_pictures_take_their_slots_in_order(llama3_tokenizer: PreTrainedTokenizerFast):
    segments = [Segment("picture"), text("\n"), Segment("picture"), Segment("picture"), text("?")]
    encoded = encode(segments, llama3_tokenizer, [3, 1, 2], 5)
    newline, question = llama3_tokenizer("\n?", add_special_tokens=False)["input_ids"]
    assert encoded.input_ids == [5, 5, 5, newline, 5, 5, 5, question]
    assert encoded.picture_spans == [(0, 3), (4, 1), (5, 2)]
    assert encoded.trained == [False] * 8


def test_pictures_and_places_must_agree(llama3_tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(InputError, match="places for 1 pictures and 2 were given"):
        encode([Segment("picture")], llama3_tokenizer, [3, 3], 5)


def test_a_token_is_trained_if_its_first_character_is(llama3_tokenizer: PreTrainedTokenizerFast):
    """Also where white space stands at the border, which the post-processor would cut off the offsets."""
    segments = [
        text("\n\n"),
        text("the star", trained=True),
        text(" \n"),
        control(END, trained=True),
        text("x"),
    ]
    encoded = encode(segments, llama3_tokenizer, [], 5)
    kept = [i for i, trained in zip(encoded.input_ids, encoded.trained, strict=True) if trained]
    assert llama3_tokenizer.decode(kept) == f"the star{END}"
    assert encoded.trained[0] is False
    assert len(encoded.trained) == len(encoded.input_ids)


def test_a_blank_before_the_border_is_not_cut_off_its_token(llama3_tokenizer: PreTrainedTokenizerFast):
    """The tokenizer's post-processor moves the beginning of such a token past the blank."""
    encoded = encode([text("a "), text("star", trained=True)], llama3_tokenizer, [], 5)
    pieces = [llama3_tokenizer.decode(token) for token in encoded.input_ids]
    assert pieces[1].startswith(" s")
    assert encoded.trained == [False, False, *[True] * (len(pieces) - 2)]


def test_one_token_across_a_border_follows_its_first_character(llama3_tokenizer: PreTrainedTokenizerFast):
    (whole,) = llama3_tokenizer("system", add_special_tokens=False)["input_ids"]
    first = encode([text("sys", trained=True), text("tem")], llama3_tokenizer, [], 5)
    second = encode([text("sys"), text("tem", trained=True)], llama3_tokenizer, [], 5)
    assert (first.input_ids, first.trained) == ([whole], [True])
    assert (second.input_ids, second.trained) == ([whole], [False])


def test_tokens_of_one_character_share_its_training(llama3_tokenizer: PreTrainedTokenizerFast):
    encoded = encode([text("a"), text("👩", trained=True), text("b")], llama3_tokenizer, [], 5)
    assert encoded.trained == [False, *[True] * (len(encoded.trained) - 2), False]
    assert len(encoded.trained) > 4


def test_unknown_control_token(llama3_tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(ConfigError, match="no token </s>; it belongs to another model"):
        control_id(llama3_tokenizer, "</s>")


def copied(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer, to be changed by one test."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<|begin_of_text|>",
    )


def test_tokens_added_later_are_known(llama3_tokenizer: PreTrainedTokenizerFast):
    tokenizer = copied(llama3_tokenizer)
    before = encode([text("<box>")], tokenizer, [], 5).input_ids
    special = AddedToken("<box>", special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [special]})
    assert encode([text("<box>")], tokenizer, [], 5).input_ids == before
    assert encode([control("<box>")], tokenizer, [], 5).input_ids == [len(tokenizer) - 1]
    tokenizer.add_tokens(["plain-word"])
    assert encode([text("plain-word")], tokenizer, [], 5).input_ids == [len(tokenizer) - 1]
    assert streamed(tokenizer, [len(tokenizer) - 2, len(tokenizer) - 1]) == ["", "plain-word", ""]


def test_padding_and_truncation_of_the_tokenizer_do_not_matter(llama3_tokenizer: PreTrainedTokenizerFast):
    tokenizer = copied(llama3_tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=90)
    segments = [text("Is there a red circle left of the blue square?")]
    expected = encode(segments, llama3_tokenizer, [], 5).input_ids
    assert 4 < len(expected) < 90
    assert encode(segments, tokenizer, [], 5).input_ids == expected


def test_threads_do_not_see_what_the_caller_does_to_his_tokenizer(llama3_tokenizer: PreTrainedTokenizerFast):
    """A fast tokenizer keeps padding, truncation and the splitting of special tokens as state."""
    words = f"What {END} is this?"
    expected = encode([text(words)], llama3_tokenizer, [], 5).input_ids
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(encode, [text(words)], llama3_tokenizer, [], 5) for _ in range(400)]
        for _ in range(100):
            cut = llama3_tokenizer([words, "x"], padding=True, truncation=True, max_length=4)["input_ids"]
            assert [len(row) for row in cut] == [4, 4]
            (end,) = llama3_tokenizer(END, add_special_tokens=False)["input_ids"]
            assert llama3_tokenizer.decode(end) == END
    assert all(future.result().input_ids == expected for future in running)


def test_left_padding():
    assert left_pad([[1, 2, 3], [4], []], 0) == [[1, 2, 3], [0, 0, 4], [0, 0, 0]]


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of sentencepiece's kind: a mark for blanks, one token per byte for unknown characters."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁Yes", "▁a", "b", ",", "你"]
    engine = Tokenizer(
        models.BPE({piece: n for n, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="</s>", unk_token="<unk>")


def streamed(tokenizer: PreTrainedTokenizerFast, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(token) for token in ids] + [stream.finish()]
    assert stream.text == "".join(pieces)
    return pieces


@pytest.mark.parametrize("words", ["One two.", "图中有一个圆。", "a 👩‍👩‍👧 b", "ɓẽŷőŋđ 12", "\n\n x  y"])
def test_pieces_are_whole_characters_and_add_up(words: str, llama3_tokenizer: PreTrainedTokenizerFast):
    ids = llama3_tokenizer(words, add_special_tokens=False)["input_ids"]
    pieces = streamed(llama3_tokenizer, ids)
    assert "".join(pieces) == words
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""
    assert sum(bool(piece) for piece in pieces) > 1


def test_ascii_comes_at_once(llama3_tokenizer: PreTrainedTokenizerFast):
    ids = llama3_tokenizer("the red star", add_special_tokens=False)["input_ids"]
    assert all(streamed(llama3_tokenizer, ids)[:-1])


def test_any_ids_give_the_text_of_decoding_them_together(llama3_tokenizer: PreTrainedTokenizerFast):
    chance = random.Random(0)
    for _ in range(300):
        ids = [chance.randrange(len(llama3_tokenizer)) for _ in range(30)]
        whole = llama3_tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(streamed(llama3_tokenizer, ids)) == whole


def test_special_tokens_are_left_out(llama3_tokenizer: PreTrainedTokenizerFast):
    ids = llama3_tokenizer(f"<|begin_of_text|>a{END}b{END}", add_special_tokens=False)["input_ids"]
    assert "".join(streamed(llama3_tokenizer, ids)) == "ab"


def test_byte_fallback():
    tokenizer = byte_fallback_tokenizer()
    byte = lambda character: [2 + value for value in character.encode()]  # noqa: E731
    named = lambda *pieces: tokenizer.convert_tokens_to_ids(list(pieces))  # noqa: E731
    ids = [*named("▁Yes", ","), *byte("好"), *byte("👩"), *named("▁a", "b", "你", "</s>")]
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == "Yes,好👩 ab你"
    assert pieces[:6] == ["Yes", ",", "", "", "好", ""]


def test_a_broken_character_does_not_take_the_whole_one_before_it_along():
    tokenizer = byte_fallback_tokenizer()
    good, half = [2 + value for value in "好".encode()], 2 + "好".encode()[0]
    assert "".join(streamed(tokenizer, [*good, half])) == "好\ufffd"
    assert (
        "".join(streamed(tokenizer, [*good, half, *tokenizer.convert_tokens_to_ids(["b", "b"])]))
        == "好\ufffdbb"
    )


def test_an_unfinished_character_is_shown_at_the_end(llama3_tokenizer: PreTrainedTokenizerFast):
    ids = llama3_tokenizer("a👩", add_special_tokens=False)["input_ids"][:-1]
    assert streamed(llama3_tokenizer, ids)[-1] == "\ufffd"


def test_a_character_that_never_mends_is_not_held_for_ever(llama3_tokenizer: PreTrainedTokenizerFast):
    broken = llama3_tokenizer("好", add_special_tokens=False)["input_ids"][-1]
    stream = TextStream(llama3_tokenizer)
    assert any(stream.push(broken) for _ in range(40))


@pytest.mark.parametrize(
    ("words", "stop", "shown"),
    [
        ("one STOP two", ("STOP",), "one "),
        ("one STO two", ("STOP",), "one STO two"),
        ("one STO", ("STOP",), "one STO"),
        ("one two", ("x", "two", "ne"), "o"),
        ("SSTOP", ("STOP",), "S"),
        ("aaab", ("aab",), "a"),
        ("图。中", ("。",), "图"),
        ("STOP", ("STOP",), ""),
    ],
)
def test_stop_strings(
    words: str, stop: tuple[str, ...], shown: str, llama3_tokenizer: PreTrainedTokenizerFast
):
    ids = [i for letter in words for i in llama3_tokenizer(letter, add_special_tokens=False)["input_ids"]]
    stream = TextStream(llama3_tokenizer, stop)
    so_far = ""
    for token in ids:
        so_far += stream.push(token)
        # Nothing is ever taken back: what is shown is always a beginning of the final text.
        assert shown.startswith(so_far)
    assert so_far + stream.finish() == shown == stream.text
    assert stream.stopped is (shown != words)


def test_the_first_of_several_stops_in_one_piece(llama3_tokenizer: PreTrainedTokenizerFast):
    (system,) = llama3_tokenizer("system", add_special_tokens=False)["input_ids"]
    stream = TextStream(llama3_tokenizer, ("em", "st", "m"))
    assert stream.push(system) == "sy"
    assert stream.stopped


def test_nothing_comes_after_a_stop(llama3_tokenizer: PreTrainedTokenizerFast):
    ids = llama3_tokenizer("a. b", add_special_tokens=False)["input_ids"]
    stream = TextStream(llama3_tokenizer, (".",))
    assert [stream.push(token) for token in ids] == ["a"] + [""] * (len(ids) - 1)
    assert stream.push(ids[0]) == ""
    assert stream.finish() == ""
