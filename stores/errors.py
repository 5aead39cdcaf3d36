"""What stores raise beside the errors of `runtime.errors`: of statements, and of settings."""

from __future__ import annotations

from ..runtime.errors import FoliotError, UsageError


class StatementError(FoliotError):
    """The database refused the statement or its rows, an id inserted twice, say: a bug, and nothing of it was written."""

    code = "statement"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"database {path!r} refused a statement: {reason}; expected rows that fit the schema")
        self.path = path
        self.reason = reason


class InvalidStoreOptionError(UsageError):
    """A setting of the store that cannot be."""

    code = "invalid_store_option"

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"store option {name} is {value!r}, expected {expected}")
        self.name = name
        self.value = value
