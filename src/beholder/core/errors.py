"""Every error that Beholder raises on purpose.

BeholderError
+ ConfigError         a setting cannot work
+ InputError          a request cannot be run as given           -> HTTP 400
+ CheckpointError     files are missing, damaged, or do not match the model
+ CapacityError       valid, but not now: queue or memory full   -> HTTP 503
+ MissingExtraError   an optional dependency is not installed
"""

from __future__ import annotations


class BeholderError(Exception):
    """Base of all errors whose message is written for the person who caused it."""


class ConfigError(BeholderError, ValueError):
    """A setting, recipe or `config.json` cannot work."""


class InputError(BeholderError, ValueError):
    """A picture, prompt or sampling value cannot be used as given."""

    @classmethod
    def too_long(cls, have: int, limit: int, pictures: int) -> InputError:
        """The prompt does not fit the context: `have` tokens of which `pictures` belong to pictures."""
        return cls(
            f"the prompt is {have} tokens ({pictures} of them picture) and the limit is {limit}; "
            "shorten the text, drop a picture, or clear the conversation"
        )


class CheckpointError(BeholderError, OSError):
    """A checkpoint cannot be found, read, or made to match the model."""


class CapacityError(BeholderError, RuntimeError):
    """The request is valid but there is no room for it now."""


class MissingExtraError(BeholderError, ImportError):
    """An optional dependency is missing; the message holds the exact `pip install` line."""

    @classmethod
    def of(cls, what: str, extra: str) -> MissingExtraError:
        """`what` needs the packages of the named extra."""
        return cls(f"{what} needs packages that are not installed: pip install 'beholder[{extra}]'")
