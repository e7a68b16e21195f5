"""Tells what is wrong with a checkpoint and what to do: healthy is what `load` would open, and nothing else.

Configuration, headers and indexes are read, and with `deep` the numbers too. Nothing is fetched: what is not
on this machine is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from beholder.checkpoints.accounting import Account, account
from beholder.checkpoints.adapter_folder import base_of
from beholder.checkpoints.adapter_symptoms import holds_adapter_alone, look_at_adapter
from beholder.checkpoints.findings import Finding, some
from beholder.checkpoints.loader import contents_of
from beholder.checkpoints.lora import confirm
from beholder.checkpoints.numbers import look_at_checksums, look_at_formats, look_at_numbers
from beholder.checkpoints.planning import ModelFamily, Plan, plan
from beholder.checkpoints.reader import PICKLED, PICKLED_INDEX, Contents, read_pickled
from beholder.checkpoints.remains import FETCH, look_at_files
from beholder.checkpoints.sat import CONFIG, LATEST, RANK_FILE, is_sat, open_sat
from beholder.core.errors import BeholderError
from beholder.core.hub import find_checkpoint, without_downloads

CONFIGURE = "take config.json from where the checkpoint came from"
FAR_SMALLER = 0.9  # a vocabulary with fewer words than this share of the model's rows is another model's

T = TypeVar("T")


class TreatedFamily(ModelFamily, Protocol):
    """A family whose checkpoints can be looked at closely."""

    @property
    def name(self) -> str:
        """Its name in the table of families."""
        ...

    @property
    def processor_class(self) -> Callable[[], Any]:
        """What opens the tokenizer."""
        ...


@dataclass(frozen=True)
class Diagnosis:
    """What `beholder doctor` tells. `notes` are worth knowing and keep nothing from opening."""

    path: str
    family: str
    title: str
    layout: str
    tensors: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Examination:
    """One look at one folder, which collects findings from step to step."""

    def __init__(self, folder: Path, base: str | Path | None) -> None:
        self.folder = folder
        self.base = base
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def add(self, findings: Iterable[Finding]) -> None:
        """Keep what is not yet said."""
        told = {finding.problem for finding in self.findings}
        self.findings += [finding for finding in findings if finding.problem not in told]

    def attempt(self, step: Callable[[], T], remedy: str, what: str = "config.json") -> T | None:
        """The step's result, or None and a finding, however it fails; then `what` cannot be used."""
        try:
            return step()
        except BeholderError as error:
            self.add([Finding(str(error), remedy)])
        except Exception as error:  # a damaged configuration can break anything that reads it
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.add([Finding(f"{what} cannot be used ({type(error).__name__}: {reason})", remedy)])
        return None


def diagnose(
    folder: Path,
    identify: Callable[[Path], TreatedFamily],
    *,
    base: str | Path | None = None,
    deep: bool = False,
    find: Callable[[str | Path], Path] = find_checkpoint,
) -> Diagnosis:
    """Look at a folder; `identify` tells its family, `base` is the model that an adapter belongs to, and
    `find` gives the folder of a model by its name."""
    looked = Examination(folder, base)
    looked.add(look_at_files(folder))
    with without_downloads():
        if is_sat(folder) or _has_ranks(folder):
            _look_at_ranks(looked)
            return _told(looked, None, None, None)
        if holds_adapter_alone(folder):
            looked.add(look_at_adapter(folder, identify, base, find))
            if not looked.findings:
                place = find(base_of(folder, base))
                looked.add(diagnose(place, identify, deep=deep).findings)
                looked.notes.append(f"this is an adapter, which is opened with its base model: {place}")
            return _told(looked, None, None, None)
        family = looked.attempt(lambda: identify(folder), _whole_remedy(folder))
        if family is None:
            return _told(looked, None, None, None)
        wanted, contents = _look_at_model(looked, family)
        if contents is not None and deep:
            looked.add(look_at_numbers(contents))
        if deep:
            looked.add(look_at_checksums(folder))
    return _told(looked, family, wanted, contents)


def _whole_remedy(folder: Path) -> str:
    """What to do where there is no configuration: the folder above the right one is often given."""
    inside = [path.parent.name for path in sorted(folder.glob("*/config.json"))]
    if inside and not (folder / "config.json").is_file():
        return f"give the folder itself that holds the checkpoint: {some(inside)}"
    return CONFIGURE


def _told(
    looked: Examination, family: TreatedFamily | None, wanted: Plan | None, contents: Contents | None
) -> Diagnosis:
    return Diagnosis(
        path=str(looked.folder),
        family=family.name if family else "",
        title=family.title if family else "",
        layout=wanted.layout if wanted else "",
        tensors=len(contents.tensors) if contents else 0,
        findings=tuple(looked.findings),
        notes=tuple(looked.notes),
    )


def _look_at_model(looked: Examination, family: TreatedFamily) -> tuple[Plan | None, Contents | None]:
    folder, base = looked.folder, looked.base
    special = cast("Callable[..., tuple[list[Finding], list[str]]] | None", getattr(family, "symptoms", None))
    if special is not None and (told := looked.attempt(lambda: special(folder, base), CONFIGURE)) is not None:
        looked.add(told[0])
        looked.notes += told[1]
    if getattr(family, "opens", None) is not None:
        return None, _look_at_another(looked, family)
    wanted = looked.attempt(lambda: plan(folder, family), CONFIGURE)
    contents = looked.attempt(lambda: contents_of(folder, family, base), _source_remedy(looked))
    if wanted is None:
        return None, contents
    if contents is not None and (complete := getattr(family, "complete", None)) is not None:
        held = contents
        contents = looked.attempt(
            lambda: cast("Contents", complete(held, wanted.config, folder, wanted.layout)),
            "fetch the vision tower, with `hf download`, or put its folder beside the checkpoint's",
        )
    if contents is not None:
        _look_at_fit(looked, family, wanted, contents)
        looked.add(_second_set(folder, wanted, contents))
    _look_at_words(looked, family, wanted)
    return wanted, contents


def _look_at_another(looked: Examination, family: TreatedFamily) -> Contents | None:
    """A model that another library opens by its own rules: its files and its processor."""
    looked.notes.append(f"{family.title} is opened as transformers has it")
    contents = looked.attempt(lambda: contents_of(looked.folder, family, looked.base), FETCH)
    looked.attempt(
        lambda: family.processor_class().from_pretrained(looked.folder),
        "put the files of the tokenizer and the processor from the original into the folder",
        "the tokenizer or the processor",
    )
    return contents


def _source_remedy(looked: Examination) -> str:
    if (looked.folder / "adapter_config.json").is_file() and looked.base is None:
        return "name the model that the adapter was trained on: --base FOLDER (or a hub id)"
    return FETCH


def _look_at_fit(looked: Examination, family: TreatedFamily, wanted: Plan, contents: Contents) -> None:
    found = account(contents, wanted)
    looked.add(_misfits(found, family, contents))
    if contents.adapter is not None:
        adapter = contents.adapter
        shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
        named = adapter.config.get("base_model_name_or_path") or "the model that it was trained on"
        looked.attempt(
            lambda: confirm(adapter, shapes),
            f"give the right base model with --base ({named}), or fetch the adapter again",
        )
    looked.add(look_at_formats(contents, wanted))
    if found.dropped:
        looked.notes.append(f"{len(found.dropped)} stored tensors are not needed: {some(found.dropped)}")


def _misfits(found: Account, family: TreatedFamily, contents: Contents) -> list[Finding]:
    """One finding for each kind of tensor that does not fit."""
    elsewhere = any(Path(tensor.file).is_absolute() for tensor in contents.tensors.values())
    of_base = "; or --base is not the model that this was trained on (another size?)" if elsewhere else ""
    shapes = [f"{name} is {list(have)} and must be {list(want)}" for name, have, want in found.mismatched]
    kinds = (
        (found.missing, "missing", f"the checkpoint is not complete: {FETCH}{of_base}"),
        (
            found.unknown,
            f"unknown to {family.title}",
            f"config.json and weights do not belong together{of_base}",
        ),
        (
            shapes,
            "of another shape than config.json says",
            f"{CONFIGURE}; it may be of another size{of_base}",
        ),
        (found.twice, "stored twice", "remove the weight files that are left over from another download"),
    )
    return [
        Finding(f"{len(names)} tensors {what}: {some(names)}", remedy)
        for names, what, remedy in kinds
        if names
    ]


def _second_set(folder: Path, wanted: Plan, contents: Contents) -> list[Finding]:
    """A folder may hold the same weights once more as `.bin`; others than those are left over."""
    if not contents.is_safetensors or not any((folder / name).is_file() for name in (PICKLED, PICKLED_INDEX)):
        return []
    own = {
        name: tensor.shape for name, tensor in contents.tensors.items() if not Path(tensor.file).is_absolute()
    }
    if not own:
        return []
    try:
        others = {name: tensor.shape for name, tensor in read_pickled(folder).tensors.items()}
    except BeholderError as error:
        return [Finding(str(error), "remove these files: the weights are there as safetensors too")]
    differ = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
    if odd := [name for name in differ if not _is_dropped(name, wanted)]:
        return [
            Finding(
                f"the folder holds weights twice, as safetensors and as .bin, and {len(odd)} tensors differ: "
                f"{some(odd)}",
                "remove those that are left over from another checkpoint",
            )
        ]
    return []


def _is_dropped(name: str, wanted: Plan) -> bool:
    try:
        return wanted.names.ours(name) is None
    except KeyError:
        return False


def _look_at_words(looked: Examination, family: TreatedFamily, wanted: Plan) -> None:
    """The tokenizer must be there and have no word that the model has no row for."""
    origin: dict[str, Any] = {} if looked.base is None else {"base": looked.base}
    processor = looked.attempt(
        lambda: family.processor_class().from_pretrained(looked.folder, local_files_only=True, **origin),
        "put the files of the tokenizer (tokenizer.model or tokenizer.json, tokenizer_config.json) and the "
        "processor's settings from the original into the folder",
        "the tokenizer or the processor",
    )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return
    total = cast("Any", wanted.config).get_text_config().vocab_size
    rows = max(wanted.padded.values(), default=total)
    words = cast("dict[str, int]", tokenizer.get_vocab())
    known = [number for word, number in words.items() if word != getattr(processor, "image_token", None)]
    top = max(known, default=-1) + 1
    if top > rows:
        looked.add([Finding(
            f"the vocabulary is wrong: the tokenizer has {top} words and the model {rows} rows for them",
            "take the tokenizer from the checkpoint's own source",
        )])  # fmt: skip
    elif top < FAR_SMALLER * rows:
        looked.add([Finding(
            f"the vocabulary is wrong: the tokenizer has only {top} words and the model has {rows} rows",
            "take the tokenizer from the checkpoint's own source",
        )])  # fmt: skip


def _has_ranks(folder: Path) -> bool:
    """Whether parts of a checkpoint of SAT lie here."""
    own = any(RANK_FILE.fullmatch(path.name) for path in folder.iterdir())
    return own or (
        any((folder / name).is_file() for name in (CONFIG, LATEST)) and not (folder / "config.json").is_file()
    )


def _look_at_ranks(looked: Examination) -> None:
    looked.add([Finding(
        f"{looked.folder} is a SAT checkpoint, which is not opened as it is",
        "convert it: beholder convert PATH NEW --to published",
    )])  # fmt: skip
    looked.attempt(
        lambda: open_sat(looked.folder),
        f"give the folder that holds {CONFIG} and {LATEST}, with the files of all ranks",
    )
