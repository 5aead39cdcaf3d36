"""Finding an app by its reference, `module:name`, as the command line gives it."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Final

from ..runtime.errors import UsageError
from .app import Foliot

_OWN: Final = tuple(
    str(Path(__file__).resolve().parent.parent / folder) + os.sep
    for folder in ("actors", "runtime", "sdk", "stores", "transports")
)


class AppLoadError(UsageError):
    """The reference leads to no app; the message says at which step it failed."""

    code = "app_load"

    def __init__(self, reference: str, problem: str, expected: str) -> None:
        super().__init__(f"app {reference!r} {problem}; expected {expected}")
        self.reference = reference


def load_app(reference: str) -> Foliot:
    """Return the app `module:name` names; the current folder is looked in first. Raises: AppLoadError."""
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise AppLoadError(reference, "is not a reference", "module:name, such as shop.tasks:app")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        problem = f"does not import: {type(error).__name__}: {error}{_where(error)}"
        raise AppLoadError(reference, problem, "a module that imports from the current folder") from error
    app = getattr(module, name, None)
    if not isinstance(app, Foliot):
        known = sorted(key for key, value in vars(module).items() if isinstance(value, Foliot))
        what = "is not there" if app is None else f"is a {type(app).__name__}"
        raise AppLoadError(reference, what, f"a Foliot app in {module_name}, which has {', '.join(known) or 'none'}")
    return app


def _where(error: Exception) -> str:
    """Return the innermost line that is neither this package's, which only says what is wrong there, nor of the import
    machinery; "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        if not name.startswith("<frozen ") and not os.path.realpath(name).startswith(_OWN) and "/importlib/" not in name:
            return f" ({name}:{frame.lineno})"
    return ""
