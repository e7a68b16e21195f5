"""Which linears of a model are stored narrow, and how a folder that holds them so is read.

They are those that native decode packs: the language model's linears and, unless its weight is the
embedding's too, the head. Embeddings, norms, tower and projector stay dense, and so do CogVLM's vision
experts, which are read once for a picture. A folder says the form in `quantization_config`; `x.weight` is
`x.codes` and `x.scales` in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from beholder.checkpoints.quantize import quantized_parts
from beholder.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from beholder.checkpoints.planning import Names, Plan
    from beholder.checkpoints.reader import Contents
    from beholder.core.narrow import Narrow

METHOD = "beholder"
FORMS = ("int8", "int4")
NARROW_PARTS = (".codes", ".scales")
WEIGHT = ".weight"
CODES = {"int8": ("I8", "F32"), "int4": ("U8", "BF16")}  # how files call the numbers of codes and scales


@dataclass(frozen=True)
class Choice:
    """The form of the linears in the layers, and that of the head; ConfigError for other forms."""

    weights: str
    group: int = 64
    head: str = "int8"

    def __post_init__(self) -> None:
        self.narrow(is_head=False)
        self.narrow(is_head=True)

    def narrow(self, *, is_head: bool) -> Narrow:
        """The form of one matrix."""
        from beholder.core.narrow import Narrow

        return Narrow(self.head if is_head else self.weights, self.group)

    def to_dict(self) -> dict[str, Any]:
        """What stands in config.json."""
        return {"quant_method": METHOD, **asdict(self)}

    def __str__(self) -> str:
        group = f" in groups of {self.group}" if "int4" in (self.weights, self.head) else ""
        return f"{self.weights}{group}, the head {self.head}"


def stored_choice(config: Any) -> Choice | None:
    """What a configuration says of our own form, None where it does not; ConfigError where it cannot be."""
    told: Any = getattr(config, "quantization_config", None)
    told = told.to_dict() if hasattr(told, "to_dict") else told
    if not isinstance(told, Mapping) or cast("Mapping[str, Any]", told).get("quant_method") != METHOD:
        return None
    given = {name: value for name, value in cast("Mapping[str, Any]", told).items() if name != "quant_method"}
    return choice_of(given)


def quantization(model: Any) -> str | None:
    """How a model's weights are quantized, such as "int8, the head int8"; None where they are not."""
    config = getattr(model, "config", None)
    settings: Any = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    if own := stored_choice(config):
        return str(own)
    is_plain = isinstance(settings, dict)
    given = cast("dict[str, Any]", settings if is_plain else settings.to_dict())
    method = str(getattr(given.get("quant_method"), "value", given.get("quant_method") or "unknown"))
    bits = given.get("bits") or (4 if given.get("load_in_4bit") else 8 if given.get("load_in_8bit") else None)
    if bits is not None:
        return f"{method} {bits} bit"
    form = None if is_plain else getattr(settings, "quant_type", None)  # torchao's is an object of that form
    return method if form is None else f"{method} {type(form).__name__}"


def choice_of(given: Mapping[str, Any]) -> Choice:
    """From the settings by name; ConfigError for those that are unknown or missing."""
    known = [field.name for field in fields(Choice)]
    if unknown := sorted(given.keys() - set(known)):
        raise ConfigError(f"quantization_config has {', '.join(unknown)}; known: {', '.join(known)}")
    if "weights" not in given:
        raise ConfigError(f"quantization_config does not say its weights; use {' or '.join(FORMS)}")
    return Choice(**given)


def narrow_linears(model: Any) -> dict[str, bool]:
    """Names of the linears that are stored narrow, and whether each is the head; `model` may be on meta."""
    import torch

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    tells: Any = getattr(decoder, "trunk_parts", None)
    if tells is not None:
        layers: list[Any] = list(tells(head).layers)
        wanted = {id(module) for layer in layers for module in cast("dict[str, Any]", vars(layer)).values()}
        names = [
            name
            for name, module in model.named_modules()
            if id(module) in wanted and isinstance(module, torch.nn.Linear)
        ]
    else:
        names = quantized_parts(model)
    if not names:
        raise ConfigError(f"{type(model).__name__} has no linears in its language model's layers")
    found = dict.fromkeys(names, False)
    tied: Mapping[str, Any] = getattr(model, "all_tied_weights_keys", None) or {}
    for name, module in model.named_modules():
        if module is head and type(module) is torch.nn.Linear and f"{name}{WEIGHT}" not in tied:
            found[name] = True
    return found


@dataclass(frozen=True)
class NarrowPart:
    """What of a model is narrow: its linears by name, whether each is the head, their rows and columns."""

    choice: Choice
    heads: Mapping[str, bool]
    shapes: Mapping[str, tuple[int, int]]


def make_narrow(model: Any, choice: Choice) -> NarrowPart:
    """Put narrow linears into a model on the meta device."""
    from beholder.core.narrow_linear import NarrowLinear

    heads = narrow_linears(model)
    shapes: dict[str, tuple[int, int]] = {}
    for name, is_head in heads.items():
        linear = model.get_submodule(name)
        narrow = choice.narrow(is_head=is_head)
        made = NarrowLinear(linear.in_features, linear.out_features, narrow, linear.bias, "meta")
        shapes[name] = made.shape
        put(model, name, made)
    return NarrowPart(choice, heads, shapes)


def put(model: Any, name: str, module: Any) -> None:
    """Exchange a module of a model."""
    above, _, last = name.rpartition(".")
    setattr(model.get_submodule(above), last, module)


class NarrowNames:
    """A key table of dense tensors that also knows the two that stand for one in a narrow folder."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def ours(self, theirs: str) -> str | None:
        """The parameter that a stored tensor fills."""
        stem, part = _apart(theirs)
        ours = self._names.ours(stem)
        return ours if part is None or ours is None else _with(ours, part)

    def theirs(self, ours: str) -> str:
        """The stored name of a parameter."""
        stem, part = _apart(ours)
        theirs = self._names.theirs(stem)
        return theirs if part is None else _with(theirs, part)

    def parts(self, ours: str) -> tuple[str, ...]:
        """The parameters of a name: of codes and scales one, as they are stored under our names alone."""
        return self._names.parts(ours) if _apart(ours)[1] is None else (ours,)


def _apart(name: str) -> tuple[str, str | None]:
    part = next((part for part in NARROW_PARTS if name.endswith(part)), None)
    return (name, None) if part is None else (f"{name.removesuffix(part)}{WEIGHT}", part)


def _with(name: str, part: str) -> str:
    return f"{name.removesuffix(WEIGHT)}{part}"


def hint(plan: Plan, mismatched: Iterable[str]) -> str:
    """What to say where stored codes and scales are of another form than the configuration says."""
    if plan.narrow is None or not any(name.endswith(NARROW_PARTS) for name in mismatched):
        return ""
    return (
        f"; config.json says that weights are {plan.narrow.choice}, and these are not: one of the two was "
        "changed, convert the model again"
    )


def confirm_numbers(contents: Contents, plan: Plan) -> None:
    """CheckpointError where codes or scales are stored as other numbers than they must be."""
    if plan.narrow is None:
        return
    for name, tensor in contents.tensors.items():
        if not name.endswith(NARROW_PARTS):
            continue
        is_head = plan.narrow.heads[(plan.names.ours(name) or "").rpartition(".")[0]]
        kinds = CODES[plan.narrow.choice.narrow(is_head=is_head).weights]
        wanted = kinds[NARROW_PARTS.index(name[name.rindex(".") :])]
        if tensor.dtype != wanted:
            raise CheckpointError(
                f"{contents.folder}: {name} is stored as {tensor.dtype} and must be {wanted}, because "
                f"config.json says that weights are {plan.narrow.choice}; convert the model again"
            )


def logical_size(contents: Contents, plan: Plan) -> int:
    """How many weights a folder holds, codes counted as what they stand for and scales as nothing."""
    total = 0
    for name, tensor in contents.tensors.items():
        if plan.narrow is None or not name.endswith(NARROW_PARTS):
            total += tensor.size
        elif name.endswith(NARROW_PARTS[0]):
            rows, columns = plan.narrow.shapes.get((plan.names.ours(name) or "").rpartition(".")[0], (0, 0))
            total += rows * columns
    return total
