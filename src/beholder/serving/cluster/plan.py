"""What a cluster is meant to run: which worker serves which model with how many replicas. No ray in here.

The plan outlives the controller in a file, which is replaced as a whole and never written in place.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from beholder.core.errors import ConfigError
from beholder.serving.errors import APIError

BUILT_IN = "beholder-mini"  # as in `api.py`, which brings torch along
FORGET_SECONDS = 600.0
PLACE = {"device", "gpus", "cpus", "pin"}  # of a model's settings those that belong to a machine

WorkerId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Model(BaseModel):
    """A model as every replica of it is opened. `source` None is the built-in one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(min_length=1, max_length=200)
    source: str | None = None
    engine: Literal["beholder", "vllm"] = "beholder"
    arguments: tuple[str, ...] = ()  # of vLLM
    device: str = "auto"
    dtype: str = "auto"
    base: str | None = None
    template: str | None = None
    quantize: str | None = None
    most_running: int = Field(32, ge=1)
    gpus: float = Field(0.0, ge=0)
    cpus: int = Field(1, ge=1)
    pin: bool = False

    def is_same(self, other: Model) -> bool:
        """Whether the two answer alike; on what each computes is its machine's affair."""
        return self.model_dump(exclude=PLACE) == other.model_dump(exclude=PLACE)

    def placed_as(self, other: Model) -> Model:
        """This model on what the other one computes on."""
        return self.model_copy(update=other.model_dump(include=PLACE))


class Joining(BaseModel):
    """What a worker says when it joins: `low` to `high` replicas of a model.

    `worker` is drawn by the worker itself and unguessable: only who is in the Ray cluster has seen it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    worker: WorkerId
    model: Model
    low: int = Field(1, ge=1, le=1000)
    high: int = Field(1, ge=1, le=1000)
    update: bool = False

    @model_validator(mode="after")
    def check_order(self) -> Joining:
        """The fewest are not more than the most."""
        if self.low > self.high:
            raise ValueError(f"at least {self.low} and at most {self.high} replicas contradict each other")
        return self

    @property
    def spare(self) -> int:
        """Room for a new replica beside an old one; a GPU has none."""
        return 0 if self.model.gpus else 1


class _Held(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    workers: list[Joining]
    session: str
    deployed: dict[str, str]


class Plan:
    """The workers that are expected and what each does. Used from several threads."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._workers: dict[str, Joining] = {}
        self._seen: dict[str, float] = {}
        self._session = ""
        self._deployed: dict[str, str] = {}

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """The plan that the last controller of this folder left, or an empty one."""
        file = folder / "plan.json"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan = cls(file)
        if file.exists():
            try:
                held = _Held.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                raise ConfigError(f"the plan in {file} cannot be read ({error}); move it away") from None
            plan._workers = {one.worker: one for one in held.workers}
            plan._seen = dict.fromkeys(plan._workers, time.time())
            plan._session, plan._deployed = held.session, held.deployed
        return plan

    def enter(self, session: str) -> None:
        """Work on the cluster of that name from now on; on a new one nothing is deployed yet."""
        with self._lock:
            if session != self._session:
                self._session, self._deployed = session, {}
                self._write()

    def deployed(self, worker: str) -> str | None:
        """The version that was deployed for a worker on this cluster."""
        with self._lock:
            return self._deployed.get(worker)

    def note(self, worker: str, version: str) -> None:
        """A version has been deployed."""
        with self._lock:
            if worker in self._workers:
                self._deployed[worker] = version
                self._write()

    def workers(self) -> dict[str, Joining]:
        """All of them, in the order in which they joined."""
        with self._lock:
            return dict(self._workers)

    def join(self, joining: Joining) -> Joining:
        """Expect a worker from now on, and say as what; one with another idea of a model must say `update`.

        A worker that is expected already comes back as what it is here, which an update may have changed.
        The model of an update goes to the others when it has answered; see `promote`.
        """
        model = joining.model
        with self._lock:
            if (known := self._workers.get(joining.worker)) is not None:
                self._seen[joining.worker] = time.time()
                return known
            differing = {
                worker: one
                for worker, one in self._workers.items()
                if one.model.name == model.name and not model.is_same(one.model)
            }
            if differing and not joining.update:
                differences = _differences(differing, model)
                raise APIError(
                    409, f"model {model.name} is already served differently: {differences}; "
                    "give the worker the same settings, another name (NAME=MODEL), or --update",
                    code="model_differs",
                )  # fmt: skip
            self._workers[joining.worker] = joining.model_copy(update={"update": bool(differing)})
            self._seen[joining.worker] = time.time()
            self._write()
            return joining

    def promote(self, worker: str) -> list[str]:
        """An update's model has answered: the others of its name are to get it. Who that is."""
        with self._lock:
            promoted = self._workers.get(worker)
            if promoted is None or not promoted.update:
                return []
            self._workers[worker] = promoted.model_copy(update={"update": False})
            changed: list[str] = []
            for other, one in self._workers.items():
                if one.model.name != promoted.model.name or one.update:
                    continue  # an update of its own has its turn when it has answered
                if not one.model.is_same(promoted.model):
                    model = promoted.model.placed_as(one.model)
                    self._workers[other] = one.model_copy(update={"model": model})
                    changed.append(other)
            self._write()
        return changed

    def leave(self, worker: str) -> None:
        """Expect it no more."""
        with self._lock:
            if self._workers.pop(worker, None) is not None:
                self._deployed.pop(worker, None)
                self._write()

    def seen(self, alive: set[str]) -> list[str]:
        """Note who is there; forget those that have not been for a long time, and say who that was."""
        now = time.time()
        with self._lock:
            for worker in alive & self._workers.keys():
                self._seen[worker] = now
            gone = [worker for worker in self._workers if now - self._seen[worker] > FORGET_SECONDS]
            for worker in gone:
                del self._workers[worker]
                self._deployed.pop(worker, None)
            if gone:
                self._write()
        return gone

    def _write(self) -> None:
        if self._file is None:
            return
        told = _Held(workers=list(self._workers.values()), session=self._session, deployed=self._deployed)
        part = self._file.with_suffix(".part")
        with part.open("w", encoding="utf-8") as held:
            held.write(told.model_dump_json(indent=1))
            held.flush()
            os.fsync(held.fileno())
        part.replace(self._file)


def named(text: str | None) -> tuple[str, str | None]:
    """The name and the source of a model as `beholder serve` reads them; of None, the built-in one's."""
    if text is None:
        return BUILT_IN, None
    name, equals, source = text.partition("=")
    if equals and name and "/" not in name:
        return name, source
    path = Path(text).expanduser()
    return (path.resolve().name if path.is_dir() else text), text


def _differences(others: dict[str, Joining], model: Model) -> str:
    """In what the first of them differs."""
    known, wanted = next(iter(others.values())).model.model_dump(), model.model_dump()
    return ", ".join(
        f"{name} is {known[name]!r} and not {value!r}"
        for name, value in wanted.items()
        if known[name] != value and name not in PLACE
    )
