"""What ``${...}`` in a configuration may read of the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

_SECRET = re.compile(r"^AWS_|PASSW|SECRET|TOKEN|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY", re.IGNORECASE)


def is_secret(variable: str) -> bool:
    """Whether an environment variable is a secret, by its name."""
    return _SECRET.search(variable) is not None


@contextmanager
def secrets_kept_out() -> Iterator[None]:
    """Inside, ``${oc.env:NAME}`` is an error where NAME is a secret.

    A configuration is written to the journal, to MLflow and beside results, with all that it refers to resolved.
    """
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _env(key: str, *default: Any) -> Any:
    if is_secret(key):
        raise ValueError(f"{key} is a secret by its name, but a configuration is recorded: leave it in the environment")
    return oc.env(key, *default)
