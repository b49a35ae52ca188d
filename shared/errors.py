"""Every error that Tandem raises on purpose, in one tree.

    TandemError
    |-- BadInput                 the caller's value is wrong              exit 2   HTTP 422
    |   |-- BadRow               a row of a source file
    |   |-- UnknownItem          an item id outside the catalogue
    |   |-- UnknownUser          a user id that no store knows
    |   |-- UnknownRanker        a ranker that this process does not serve
    |   `-- UnknownRelease       a release that the registry does not hold
    |-- BadArtifact              a folder that must not be served         exit 3   refuses to start
    |   |-- MissingFile          named in the manifest, not in the folder
    |   |-- ChecksumMismatch     its bytes are not the manifest's
    |   |-- CatalogMismatch      two parts that speak of different catalogues
    |   |-- LabelMismatch        the tokenizer gives other label ids than the manifest
    |   `-- GoldenMismatch       the loaded model does not reproduce its own golden score
    |-- Unavailable              a collaborator does not answer           exit 4   HTTP 503
    |   |-- Overloaded           it answers that its queue is full
    |   |-- BadAnswer            it answers, and the answer makes no sense
    |   `-- ReleaseNotLoaded     it answers that it has not loaded (yet) what it was asked for
    |-- DeadlineExceeded         no time is left for what was asked       exit 4   HTTP 504
    |-- Unauthorized             nobody knows who asks                    HTTP 401
    |-- Forbidden                known, and not allowed to                HTTP 403
    `-- RateLimited              more than was agreed with this caller    HTTP 429

A message holds the value, the fault and the way out.
"""

from __future__ import annotations


class TandemError(Exception):
    exit_code = 1


class BadInput(TandemError):
    exit_code = 2


class BadRow(BadInput):
    """A row that cannot be read: names file, line, column and value."""

    def __init__(self, file: str, line: int, column: str, value: object, fault: str) -> None:
        super().__init__(
            f"{file}, line {line}, column {column!r}: {value!r} {fault}. "
            "Correct the row, or pass --on-error skip to leave such rows out and count them."
        )
        self.file, self.line, self.column, self.value = file, line, column, value


class UnknownItem(BadInput):
    pass


class UnknownUser(BadInput):
    pass


class UnknownRanker(BadInput):
    pass


class UnknownRelease(BadInput):
    pass


class BadArtifact(TandemError):
    exit_code = 3


class MissingFile(BadArtifact):
    pass


class ChecksumMismatch(BadArtifact):
    pass


class CatalogMismatch(BadArtifact):
    pass


class LabelMismatch(BadArtifact):
    pass


class GoldenMismatch(BadArtifact):
    pass


class Unavailable(TandemError):
    exit_code = 4


class Overloaded(Unavailable):
    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadAnswer(Unavailable):
    pass


class ReleaseNotLoaded(Unavailable):
    pass


class DeadlineExceeded(TandemError):
    exit_code = 4


class Unauthorized(TandemError):
    pass


class Forbidden(TandemError):
    pass


class RateLimited(TandemError):
    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
