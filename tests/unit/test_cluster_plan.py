"""What a cluster is meant to run, over restarts and contradictions."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from beholder.cli.aliases import translate
from beholder.cli.worker import _range
from beholder.core.errors import ConfigError
from beholder.serving.cluster import plan as planning
from beholder.serving.cluster.plan import Joining, Model, Plan, named
from beholder.serving.cluster.worker import base_address
from beholder.serving.errors import APIError

ONE, TWO = "1" * 32, "2" * 32


def joining(
    worker: str = ONE, *, source: str | None = None, update: bool = False, **model: object
) -> Joining:
    fields = {"name": "mini", "source": source, **model}
    return Joining(worker=worker, model=Model.model_validate(fields), low=2, high=2, update=update)


def test_a_plan_outlives_its_controller(tmp_path):
    plan = Plan.open(tmp_path / "state")
    plan.enter("cluster 1")
    plan.join(joining())
    plan.join(joining(TWO))
    plan.note(ONE, "version")
    plan.leave(TWO)
    again = Plan.open(tmp_path / "state")
    assert again.workers() == {ONE: joining()}
    again.enter("cluster 1")
    assert again.deployed(ONE) == "version"
    again.enter("cluster 2")
    assert again.deployed(ONE) is None
    assert Plan.open(tmp_path / "state").deployed(ONE) is None


def test_a_damaged_plan_is_not_overwritten(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="move it away"):
        Plan.open(tmp_path)
    assert (tmp_path / "plan.json").read_text() == "{"


def test_one_name_is_one_model():
    plan = Plan()
    plan.join(joining(source="/a"))
    with pytest.raises(APIError, match=r"source is '/a' and not '/b'.*--update") as caught:
        plan.join(joining(TWO, source="/b"))
    assert caught.value.status == 409
    assert list(plan.workers()) == [ONE]
    plan.join(joining(TWO, source="/b", update=True))
    # Nothing is replaced by a model that has not answered yet.
    assert {one.model.source for one in plan.workers().values()} == {"/a", "/b"}
    assert plan.promote(ONE) == []
    assert plan.promote(TWO) == [ONE]
    assert {one.model.source for one in plan.workers().values()} == {"/b"}
    assert plan.promote(TWO) == []
    plan.join(joining("3" * 32, source="/b", update=True))  # nothing to update
    assert not any(one.update for one in plan.workers().values())


def test_an_update_that_leaves_before_it_answered_changes_nothing():
    plan = Plan()
    plan.join(joining(source="/a"))
    plan.join(joining(TWO, source="/b", update=True))
    plan.leave(TWO)
    assert plan.workers() == {ONE: joining(source="/a")}


def test_a_worker_that_comes_back_is_what_an_update_made_of_it(tmp_path):
    plan = Plan.open(tmp_path)
    plan.join(joining(source="/a", cpus=3))
    plan.join(joining(TWO, source="/b", cpus=1, update=True))
    plan.promote(TWO)
    back = Plan.open(tmp_path).join(joining(source="/a", cpus=3))
    assert (back.model.source, back.model.cpus) == ("/b", 3)


def test_machines_may_differ():
    plan = Plan()
    plan.join(joining(cpus=8, device="cpu"))
    plan.join(joining(TWO, gpus=1, device="cuda", pin=True))
    assert list(plan.workers()) == [ONE, TWO]
    with pytest.raises(APIError, match="dtype is 'auto' and not 'float32'"):
        plan.join(joining("3" * 32, cpus=2, dtype="float32"))


def test_who_stays_away_is_forgotten(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(planning.time, "time", lambda: now[0])
    plan = Plan()
    plan.join(joining())
    plan.join(joining(TWO))
    now[0] += planning.FORGET_SECONDS - 1
    assert plan.seen({TWO, "a stranger"}) == []
    now[0] += 2
    assert plan.seen(set()) == [ONE]
    assert list(plan.workers()) == [TWO]


@pytest.mark.parametrize("change", [{"worker": "x"}, {"low": 0}, {"low": 3}, {"replicas": 1}])
def test_what_a_worker_may_say(change):
    with pytest.raises(ValidationError):
        Joining.model_validate(joining().model_dump() | change)


def test_names_are_those_of_serve(tmp_path):
    (tmp_path / "mine").mkdir()
    assert named(None) == ("beholder-mini", None)
    assert named("small=/x/y") == ("small", "/x/y")
    assert named("a/b") == ("a/b", "a/b")
    assert named(str(tmp_path / "mine")) == ("mine", str(tmp_path / "mine"))


def test_addresses_and_ranges():
    assert base_address("host:80") == "http://host:80"
    assert base_address("https://host:80/") == "https://host:80"
    for wrong in ("host", "host:x", "ftp://host:1", ":80"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            base_address(wrong)
    assert (_range("2"), _range("1-4")) == ((2, 2), (1, 4))
    for wrong in ("0", "4-1", "x", "1-", "-1", "1-2-3"):
        with pytest.raises(ConfigError, match="--replicas"):
            _range(wrong)


def test_the_original_worker_command_is_understood(capsys):
    given = [
        "--host", "0.0.0.0", "--controller-address", "http://localhost:10000", "--port", "40000",
        "--worker=http://localhost:40000", "--model-path", "M", "--limit-model-concurrency=5", "--load-4bit",
    ]  # fmt: skip
    assert translate("worker", given) == [
        "--controller", "http://localhost:10000", "--model", "M", "--max-running=5", "--quantize", "4bit",
    ]  # fmt: skip
    assert "reached through Ray" in capsys.readouterr().err
    assert translate("controller", ["--port", "1", "--dispatch-method", "lottery"]) == ["--port", "1"]
