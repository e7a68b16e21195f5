"""What the fleet makes of the plan, one step at a time, over a stand-in for Ray Serve."""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from beholder.core.errors import BeholderError, ConfigError
from beholder.serving.cluster.calls import Call, FullError, Head, LostError
from beholder.serving.cluster.controller import hold
from beholder.serving.cluster.plan import Joining, Model, Plan
from beholder.serving.media import MediaPolicy
from beholder.serving.settings import Keys, Settings

pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, when it is imported
    from beholder.serving.cluster import asking
    from beholder.serving.cluster import fleet as module
    from beholder.serving.cluster.deploying import application, version
    from beholder.serving.cluster.fleet import Fleet, Seen
    from beholder.serving.cluster.replica import Replica

ONE, TWO, NEW = "1" * 32, "2" * 32, "3" * 32


@dataclass
class Serve:
    """Ray Serve as far as the fleet asks it."""

    applications: dict[str, Any] = field(default_factory=dict)
    deployed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def status(self) -> Any:
        return SimpleNamespace(applications=self.applications)

    def delete(self, name: str, _blocking: bool) -> None:
        self.deleted.append(name)

    def run_many(self, targets: Any, wait_for_applications_running: bool) -> None:
        for target in targets:
            self.deployed.append(target.name)
            self.set(target.name, "DEPLOYING")

    def set(self, name: str, status: str) -> None:
        self.applications[name] = SimpleNamespace(status=status, message="why", deployments={})

    RunTarget = staticmethod(lambda _app, name, _route: SimpleNamespace(name=name))


@pytest.fixture
def serve(monkeypatch):
    made = Serve()
    monkeypatch.setattr(module, "serve", made)
    monkeypatch.setattr(module, "deployment", lambda joining, settings: None)
    return made


def joining(worker: str, source: str = "/a", **fields: Any) -> Joining:
    return Joining(worker=worker, model=Model(name="m", source=source), **fields)


def fleet(*workers: Joining) -> Fleet:
    plan = Plan()
    for one in workers:
        plan.join(one)
    made = Fleet(plan, Settings())
    made._alive = set(plan.workers())
    return made


def settled(made: Fleet, serve: Serve) -> None:
    """Everything is deployed and runs."""
    made._tend()
    for name in serve.applications:
        serve.set(name, "RUNNING")
    serve.deployed.clear()
    made._running = dict(serve.applications)


def test_only_our_own_applications_are_taken_away(serve):
    made = fleet(joining(ONE))
    made._running = {application(TWO): None, "somebody's": None}
    made._tend()
    assert (serve.deleted, serve.deployed) == ([application(TWO)], [application(ONE)])
    made._tend()
    assert serve.deployed == [application(ONE)]


def test_an_update_goes_round_one_by_one_when_it_has_answered(serve):
    made = fleet(joining(ONE), joining(TWO))
    settled(made, serve)
    made.plan.join(joining(NEW, "/b", update=True))
    made._alive.add(NEW)
    made._tend()
    assert serve.deployed == [application(NEW)]
    made.seen = {NEW: Seen(NEW, "m", "ready", 1, 1)}
    made._tend()
    made._tend()
    assert serve.deployed == [application(NEW), application(ONE)]
    serve.set(application(ONE), "RUNNING")
    made._tend()
    assert serve.deployed[2:] == [application(TWO)]


def test_others_are_served_while_one_is_replaced(serve):
    made = fleet(joining(ONE), joining(TWO))
    settled(made, serve)
    made.settings = replace(made.settings, request_seconds=1.0)
    made._tend()
    assert serve.deployed == [application(ONE)]
    made.plan.join(joining(NEW))
    made._alive.add(NEW)
    made._tend()
    assert serve.deployed == [application(ONE), application(NEW)]
    made._alive.discard(ONE)  # nobody waits for a worker that is gone
    made._tend()
    assert serve.deployed[2:] == [application(TWO)]


def test_a_model_that_fails_on_one_worker_goes_to_no_other(serve, caplog):
    made = fleet(joining(ONE), joining(TWO))
    settled(made, serve)
    made.settings = replace(made.settings, request_seconds=1.0)
    made._tend()
    serve.set(application(ONE), "DEPLOY_FAILED")
    made._tend()
    made._tend()
    assert serve.deployed == [application(ONE)]
    assert caplog.text.count("no other gets it: why") == 1


def test_limits_of_the_controller_reach_replicas_that_were_there_before():
    one, settings = joining(ONE), Settings()
    assert version(one, settings) == version(one.model_copy(update={"update": True}), Settings())
    assert version(one, settings) == version(one, replace(settings, keys=Keys(["a-long-key"])))
    closed = replace(settings, media=MediaPolicy(addresses=False))
    assert version(one, settings) != version(one, closed)


def test_whoever_left_and_is_expected_again_gets_calls(serve, monkeypatch):
    made = fleet(joining(ONE))
    monkeypatch.setattr(module.ray, "nodes", list)
    made.leave(ONE)
    assert made.leaving == {ONE}
    made.plan.join(joining(ONE))
    made._look()
    assert made.leaving == set()


def test_a_controller_that_cannot_look_says_so(serve, monkeypatch):
    made = fleet(joining(ONE))
    assert made.unseen == 0
    made._looked -= 11
    assert made.unseen > 10
    monkeypatch.setattr(module.ray, "nodes", list)
    made._look()
    assert made.unseen == 0


def test_one_controller_a_folder(tmp_path):
    held = hold(tmp_path)
    with pytest.raises(ConfigError, match="another controller"):
        hold(tmp_path)
    held.close()
    hold(tmp_path).close()


def test_a_replica_whose_engine_has_ended_is_not_well():
    replica = Replica.__new__(Replica)
    engine = SimpleNamespace()
    vlm = SimpleNamespace(engine=engine, close=lambda: None)
    replica.served = SimpleNamespace(name="m", vlm=vlm)  # type: ignore[assignment]
    replica.check_health()
    engine.is_alive = False
    with pytest.raises(BeholderError, match="has ended"):
        replica.check_health()


class Response:
    """The parcels of a call, as Ray Serve hands them over."""

    def __init__(self, parcels: list[Any]) -> None:
        self.parcels = parcels
        self.cancelled = 0

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> Any:
        if not self.parcels:
            raise StopAsyncIteration
        if isinstance(parcel := self.parcels.pop(0), BaseException):
            raise parcel
        return parcel

    def cancel(self) -> None:
        self.cancelled += 1


HEAD = Head(200, ())


def calling(monkeypatch: Any, *parcels: Any) -> tuple[Fleet, Response]:
    """A fleet whose replicas answer with these."""
    made, response = fleet(joining(ONE)), Response(list(parcels))
    asked = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda call: response))
    monkeypatch.setattr(made._asking, "_handle", lambda worker: asked)
    return made, response


def test_parcels_are_opened_and_an_answer_that_has_ended_is_not_cancelled(monkeypatch):
    made, response = calling(monkeypatch, (HEAD, b"a"), b"b")

    async def hear() -> list[Any]:
        return [part async for part in made.call(ONE, Call("/", b""))]

    assert asyncio.run(hear()) == [HEAD, b"a", b"b"]
    assert (made.loads[ONE], response.cancelled) == (0, 0)


def test_an_answer_that_nobody_reads_on_is_cancelled(monkeypatch):
    made, response = calling(monkeypatch, (HEAD, b"a"), b"b")

    async def leave() -> Any:
        parts = made.call(ONE, Call("/", b""))
        first = await anext(parts)
        assert made.loads[ONE] == 1
        await parts.aclose()
        return first

    assert asyncio.run(leave()) == HEAD
    assert (made.loads[ONE], response.cancelled) == (0, 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asking.RayServeException("gone"), LostError),
        (asking.BackPressureError(num_queued_requests=1, max_queued_requests=1), FullError),
        (asking.TaskCancelledError(), LostError),
        (asyncio.CancelledError(), LostError),
    ],
)
def test_how_an_answer_is_lost(monkeypatch, error, told):
    made, response = calling(monkeypatch, HEAD, error)

    async def hear() -> None:
        with pytest.raises(told):
            async for _ in made.call(ONE, Call("/", b"")):
                pass

    asyncio.run(hear())
    assert (made.loads[ONE], response.cancelled) == (0, 1)


@pytest.mark.parametrize("times", [1, 2])  # what cancels may do so again before all is tidied up
def test_whoever_leaves_before_the_first_word_leaves_nobody_at_work(monkeypatch, times):
    made, response = calling(monkeypatch)
    told: list[str] = []

    async def wait() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled" if response.cancelled else "not yet")

    monkeypatch.setattr(Response, "__anext__", lambda self: wait())

    async def leave() -> None:
        parts = made.call(ONE, Call("/", b""))
        waiting = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0.01)
        for _ in range(times):
            waiting.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await asyncio.sleep(0)
        assert told == ["cancelled"]

    asyncio.run(leave())
    assert (made.loads[ONE], told) == (0, ["cancelled"])


def test_what_a_replica_says_of_its_model_is_asked_until_it_answers():
    made, answers = fleet(joining(ONE)), [Future[Any](), Future[Any](), Future[Any]()]
    asked = iter(answers)
    made._asking.describe = lambda worker: next(asked)  # type: ignore[method-assign]
    answers[0].set_exception(asking.RayServeException("gone"))
    answers[1].cancel()
    answers[2].set_result({"family": "m"})
    found = [made._describe(joining(ONE)) for _ in range(6)]
    assert found == [None, None, None, None, None, {"family": "m"}]
    assert made._describe(joining(ONE)) == {"family": "m"}


@pytest.mark.parametrize("error", [TimeoutError("its own"), KeyError("never expected")])
def test_an_error_that_nobody_expects_is_met_once(error):
    made, answers = fleet(joining(ONE)), [Future[Any](), Future[Any]()]
    asked = iter(answers)
    made._asking.describe = lambda worker: next(asked)  # type: ignore[method-assign]
    answers[0].set_exception(error)
    answers[1].set_result({"family": "m"})
    assert made._describe(joining(ONE)) is None
    with pytest.raises(type(error)):
        made._describe(joining(ONE))
    assert made._describe(joining(ONE)) is None
    assert made._describe(joining(ONE)) == {"family": "m"}


def test_metrics_of_replicas_that_answer_are_shown(monkeypatch):
    made = fleet(joining(ONE), joining(TWO))
    made.seen = {
        ONE: Seen(ONE, "m", "ready", 1, 1),
        TWO: Seen(TWO, "m", "ready", 1, 1),
        NEW: Seen(NEW, "m", "gone"),
    }

    async def results_async(timeout_s: float) -> list[tuple[str, bytes]]:
        return [("one:1", b"shown")]

    async def fails(timeout_s: float) -> None:
        raise TimeoutError

    def handle(worker: str) -> Any:
        results = results_async if worker == ONE else fails
        return SimpleNamespace(broadcast=lambda name: SimpleNamespace(results_async=results))

    async def shown() -> list[tuple[str, bytes]]:
        made._asking.attend()
        return await asyncio.get_running_loop().run_in_executor(None, made.metrics)

    monkeypatch.setattr(made._asking, "_handle", handle)
    assert asyncio.run(shown()) == [("one:1", b"shown")]


def test_handles_of_workers_that_have_left_are_given_up():
    asking = fleet(joining(ONE))._asking
    asking._handles = {ONE: "handle", "left": "handle"}
    asking._callers = {"left": "caller"}
    asking.forget_all_but({ONE: "joining"})
    assert (asking._handles, asking._callers) == ({ONE: "handle"}, {})
