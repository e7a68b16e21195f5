"""Which replica a conversation belongs to."""

from __future__ import annotations

from collections import Counter

import pytest

from beholder.serving.cluster.affinity import conversation_key, ranked, spilled

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
OTHER = {"type": "image_url", "image_url": "data:image/png;base64,BBBB"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def user(*content: object) -> dict[str, object]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def key(*messages: object, **fields: object) -> bytes:
    return conversation_key({"messages": list(messages), **fields})


def test_all_turns_of_a_conversation_have_one_key():
    first = user("What is this?")
    later = [{"role": "assistant", "content": "A star."}, user("Which colour?")]
    assert key(first) == key(first, *later)
    assert key(user(PICTURE, words("What?"))) == key(user(PICTURE, words("What?")), *later)


def test_conversations_about_one_picture_have_one_key():
    assert key(user(PICTURE, words("What?"))) == key(user(words("Where?"), PICTURE))
    assert key(user(PICTURE, words("What?"))) != key(user(OTHER, words("What?")))
    bare = {"type": "image_url", "image_url": PICTURE["image_url"]["url"]}  # pyright: ignore[reportArgumentType]
    assert key(user(PICTURE)) == key(user(bare))


def test_what_comes_before_the_picture_counts():
    system = {"role": "system", "content": "Be brief."}
    assert key(system, user(PICTURE)) != key(user(PICTURE))
    assert key(user("ab")) != key(user("a"))
    assert key({"role": "system", "content": "ab"}, user("c")) != key(
        {"role": "system", "content": "a"}, user("bc")
    )
    assert key(user(PICTURE), template="vqa") != key(user(PICTURE), template="chat")


def test_prompts_have_keys_by_their_beginning():
    beginning = "x" * 512
    assert conversation_key({"prompt": beginning + "a"}) == conversation_key({"prompt": [beginning + "b"]})
    assert conversation_key({"prompt": "a"}) != conversation_key({"prompt": "b"})


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": None}, {"messages": [1, "x", {}]}, {"messages": [{"role": "user", "content": 3}]},
     {"messages": [{"role": "user", "content": [None, {"image_url": 5}, {"text": "\ud800"}]}]}],
)  # fmt: skip
def test_any_body_has_a_key(body):
    assert len(conversation_key(body)) == 16


def test_one_replica_less_moves_only_its_own():
    places = {f"replica {number}": 1.0 for number in range(5)}
    keys = [bytes([number, step]) for number in range(100) for step in range(10)]
    before = {one: ranked(one, places)[0] for one in keys}
    del places["replica 3"]
    after = {one: ranked(one, places)[0] for one in keys}
    moved = {one for one in keys if before[one] != after[one]}
    assert moved == {one for one in keys if before[one] == "replica 3"}
    assert 120 < len(moved) < 280


def test_weights_share_out_the_keys():
    first = Counter(
        ranked(bytes([a, b]), {"one": 1.0, "three": 3.0, "none": 0.0})[0]
        for a in range(64)
        for b in range(64)
    )
    assert first["none"] == 0
    assert 2.6 < first["three"] / first["one"] < 3.4


def test_a_loaded_replica_spills_over():
    weights = dict.fromkeys("abc", 1.0)
    assert spilled("abc", {"a": 1}, weights) == ["a", "b", "c"]
    assert spilled("abc", {"a": 4}, weights) == ["b", "c", "a"]
    assert spilled("abc", {"a": 9, "b": 8, "c": 9}, weights) == ["a", "b", "c"]
    assert spilled("abc", {"a": 12, "b": 8, "c": 0}, weights)[0] == "b"
    assert spilled("ab", {"a": 6}, {"a": 4.0, "b": 1.0})[0] == "a"
    assert spilled("", {}, {}) == []
