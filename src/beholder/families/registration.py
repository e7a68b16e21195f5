"""Makes the Auto classes of transformers know our model types, whichever of the two is imported first.

`import beholder` must not import transformers, so the registration waits until an Auto class is loaded. And
as it needs our own classes, whose modules import half of transformers, it waits further until no module of
either package is half imported.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from beholder.families import FAMILIES, family
from beholder.families.unnamed import name_published_configs

WATCHED = ("transformers.", "beholder.families.")


def register_configs(auto: Any) -> None:
    """Our `model_type`s and the published ones, and published files that name none."""
    name_published_configs(auto.PreTrainedConfig)
    for name in FAMILIES:
        for config_class in family(name).config_classes():
            auto.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models(auto: Any) -> None:
    """What each Auto model class opens."""
    for name in FAMILIES:
        config_class = family(name).config_classes()[0]
        for auto_class, model_class in family(name).auto_models().items():
            getattr(auto, auto_class).register(config_class, model_class, exist_ok=True)


def register_processors(auto: Any) -> None:
    """What `AutoProcessor` opens."""
    for name in FAMILIES:
        found = family(name)
        auto.AutoProcessor.register(found.config_classes()[0], found.processor_class(), exist_ok=True)


STEPS: dict[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": register_configs,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.processing_auto": register_processors,
}


class AfterImport(MetaPathFinder):
    """Watches imports and takes each step once its module is loaded and nothing watched is half imported."""

    def __init__(self) -> None:
        self.pending = dict(STEPS)
        self.depth = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec as the other finders find it, with a step before and after the module runs."""
        if not fullname.startswith(WATCHED):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: Any) -> None:
        run: Callable[[ModuleType], None] = loader.exec_module

        def run_watched(module: ModuleType) -> None:
            self.depth.modules = getattr(self.depth, "modules", 0) + 1
            try:
                run(module)
            finally:
                self.depth.modules -= 1
            if self.depth.modules == 0:
                self.take_steps()

        loader.exec_module = run_watched

    def take_steps(self) -> None:
        """Register with what is loaded; when nothing is left to do, stop watching."""
        for name in [name for name in self.pending if name in sys.modules]:
            if (step := self.pending.pop(name, None)) is not None:
                step(sys.modules[name])
        if not self.pending and self in sys.meta_path:
            sys.meta_path.remove(self)


_watcher = AfterImport()


def install() -> None:
    """Register with what is loaded already, and with the rest when it is; a second call changes nothing."""
    if _watcher.pending and _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
        _watcher.take_steps()
