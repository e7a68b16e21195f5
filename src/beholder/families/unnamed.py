"""Opens published checkpoints whose `config.json` has no `model_type` with the Auto classes of transformers.

Their authors relied on code from the hub, which the Auto classes would fetch and run. The type is written
into what was read, so that they find our configuration class instead, also with `trust_remote_code=True`.
"""

from __future__ import annotations

from typing import Any

from beholder.families import FAMILIES, family


def name_published_configs(base: Any) -> None:
    """Make `base.get_config_dict` (that of `PreTrainedConfig`) fill in the type; once is enough."""
    read = base.get_config_dict.__func__
    if getattr(read, "names_published_configs", False):
        return

    def get_config_dict(cls: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, unused = read(cls, *args, **kwargs)
        return named(config), unused

    get_config_dict.__doc__ = read.__doc__
    get_config_dict.names_published_configs = True  # type: ignore[attr-defined]
    base.get_config_dict = classmethod(get_config_dict)


def named(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the `model_type` of the family that published it, where it has none."""
    if config.get("model_type"):
        return config
    owner = next((found for name in FAMILIES if (found := family(name)).is_published(config)), None)
    return config if owner is None else {**config, "model_type": owner.model_types[0]}
