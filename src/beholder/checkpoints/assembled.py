"""Opens a model from tensors that lie in several places: weights, a base model, a vision tower.

Headers are read and accounted for first; then each tensor is read when transformers asks for it, so that
memory holds little more than the model.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.lora import Pair, attach, merged
from beholder.checkpoints.reader import Contents
from beholder.checkpoints.shards import TensorHeader
from beholder.checkpoints.splits import targets
from beholder.checkpoints.strict import StrictLoading, without_report
from beholder.core.hub import find_checkpoint

if TYPE_CHECKING:
    from typing import Self

    import torch

    from beholder.checkpoints.planning import ModelFamily, Plan

log = logging.getLogger("beholder")

# Of transformers' own arguments those that say where files come from; here a folder is at hand.
ABOUT_FILES = (
    "cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "token", "trust_remote_code",
    "use_safetensors", "variant", "weights_only", "adapter_kwargs", "_from_auto", "_commit_hash",
)  # fmt: skip

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Stored:
    """One parameter still on disk; `tensor[...]` reads it, and slices give what of it a process keeps."""

    files: Files
    header: TensorHeader
    name: str
    part: int = 0
    parts: int = 1
    fill: int = 0  # rows to add
    change: Pair | None = None  # what an adapter adds

    def __getitem__(self, part: Any) -> torch.Tensor:
        tensor = self._read()
        return tensor if part is ... else tensor[part]

    def _read(self) -> torch.Tensor:
        whole = self.files.read(self.header, self.name)
        if self.change is not None:
            down, up = (self.files.read(half, half.name) for half in (self.change.down, self.change.up))
            whole = merged(whole, down, up, self.change.scale)
        if self.parts > 1:
            whole = whole.chunk(self.parts)[self.part]
        return with_mean_rows(whole, self.fill)

    def get_shape(self) -> list[int]:
        """Its shape as a parameter."""
        shape = self.header.shape
        return [shape[0] // self.parts + self.fill, *shape[1:]] if shape else []


class Files:
    """The weight files of a checkpoint, each opened once."""

    def __init__(self, contents: Contents) -> None:
        self._folder = contents.folder
        self._open: dict[str, Any] = {}

    def read(self, header: TensorHeader, name: str) -> torch.Tensor:
        """One tensor."""
        path = self._folder / header.file
        if path.suffix == ".safetensors":
            return self._opened(path).get_tensor(header.name or name)
        return self._opened(path)[header.name or name].clone()

    def announce(self, header: TensorHeader) -> None:
        """Let the disk fetch a tensor that will be computed with, while the model is still being built.

        All others are only mapped, and read when the model first runs.
        """
        if header.begin and hasattr(os, "posix_fadvise"):
            with (self._folder / header.file).open("rb") as file:
                os.posix_fadvise(file.fileno(), header.begin, header.bytes, os.POSIX_FADV_WILLNEED)

    def _opened(self, path: Path) -> Any:
        key = str(path)
        if key not in self._open:
            self._open[key] = _open_file(path)
        return self._open[key]


def _open_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        return safe_open(path, framework="pt")
    from beholder.checkpoints.pickles import tensors_in

    return tensors_in(path)


def with_mean_rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """The tensor with `count` more rows, each the mean of its own.

    A mean scores at most as high as the best of the rows that it is the mean of, so rows that only fill up a
    vocabulary do not win, not even in a program that does not know that they are filling.
    """
    import torch

    if count == 0:
        return tensor
    # Blocks pass through one room that fits a cache: wider copies of their own would be gigabytes, and what
    # a thread frees of them between small results is not used again.
    room = torch.empty(
        ROWS_AT_ONCE, *tensor.shape[1:], dtype=torch.float32 if tensor.element_size() < 4 else torch.float64
    )
    starts = range(0, len(tensor), ROWS_AT_ONCE)
    sums = torch.empty(len(starts), *tensor.shape[1:], dtype=room.dtype)
    for row, at in zip(sums, starts, strict=True):
        block = tensor[at : at + ROWS_AT_ONCE]
        torch.sum(room[: len(block)].copy_(block), 0, out=row)
    mean = (sums.double().sum(0, keepdim=True) / len(tensor)).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(count, *tensor.shape[1:])])


def assemble(contents: Contents, plan: Plan, *, merge: bool = True) -> dict[str, Stored]:
    """The model's parameters under our names, with the adapter if `merge`; `contents` must fit `plan`."""
    files = Files(contents)
    changes = contents.adapter.pairs if contents.adapter is not None and merge else {}
    state: dict[str, Stored] = {}
    for name, header in contents.tensors.items():
        held = targets(plan.names, name)
        for number, ours in enumerate(held):
            is_short = header.shape[:1] == (plan.padded.get(ours),)
            fill = plan.wanted[ours][0] - plan.padded[ours] if is_short else 0
            state[ours] = Stored(files, header, name, number, len(held), fill, changes.get(name))
            if fill or name in changes:
                files.announce(header)
    return state


class AssembledLoading(StrictLoading):
    """Mixin for a `PreTrainedModel` whose checkpoints may be in several places."""

    @classmethod
    def family_of(cls, config: Any) -> ModelFamily:
        """The family that a configuration belongs to."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Self | Any:
        """As in transformers, from any layout of the family, but a `CheckpointError` unless all fits.

        `base` is the folder or hub id of the model that an adapter or a projector belongs to. An adapter is
        merged into the weights, or with `merge_adapter=False` put beside them by PEFT.
        """
        from beholder.checkpoints.loader import check

        if pretrained_model_name_or_path is None:
            return cast("Any", super(StrictLoading, cls)).from_pretrained(None, *args, **kwargs)
        revision = kwargs.pop("revision", None)
        name = str(pretrained_model_name_or_path)
        folder = find_checkpoint(name if revision in (None, "main") else f"{name}@{revision}")
        for about in ABOUT_FILES:
            kwargs.pop(about, None)
        base = kwargs.pop("base", None)
        given = kwargs.pop("config", None)
        config_class = cast("Any", cls).config_class  # of the `PreTrainedModel` beside this class
        config = given if isinstance(given, config_class) else config_class.from_pretrained(folder)
        wanted, contents = check(folder, cls.family_of(config), base=base, config=config, model_class=cls)
        kwargs["dtype"] = _dtype(kwargs.pop("torch_dtype", None), kwargs.pop("dtype", None), wanted, contents)
        kwargs.pop("key_mapping", None)
        return cls.from_checked(folder, wanted, contents, *args, **kwargs)

    @classmethod
    def from_checked(cls, folder: Path, wanted: Plan, contents: Contents, *args: Any, **kwargs: Any) -> Any:
        """`from_pretrained` of a folder that `loader.check` has found to fit; it is not looked at twice."""
        from beholder.checkpoints import narrow_quantizer  # transformers knows its name from then on

        narrow_quantizer.register()
        wants_info = kwargs.pop("output_loading_info", False)
        merge = kwargs.pop("merge_adapter", True)
        state = assemble(contents, wanted, merge=merge)
        model, info = cls._from_state(state, wanted.config, args, kwargs)
        model._weight_conversions = []
        if contents.adapter is not None and not merge:
            attach(model, contents.adapter, lambda name: targets(wanted.names, name)[0], Files(contents).read)
        model.config.name_or_path = model.name_or_path = str(folder)
        _read_generation_config(model, folder)
        return (model, info) if wants_info else model

    @classmethod
    def _from_state(
        cls, state: Mapping[str, Any], config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        theirs = cast("Any", super(StrictLoading, cls))
        with without_report():
            model, info = theirs.from_pretrained(
                None, *args, config=config, state_dict=dict(state), output_loading_info=True, **kwargs
            )
        return model, info


def _dtype(old: Any, new: Any, plan: Plan, contents: Contents) -> Any:
    from beholder.checkpoints.loader import stored_dtype

    given = old if new is None else new
    if given not in (None, "auto"):
        return given
    return plan.config.dtype or stored_dtype(contents)


def _read_generation_config(model: Any, folder: Path) -> None:
    if model.can_generate() and (folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = cast("Any", GenerationConfig).from_pretrained(folder)
