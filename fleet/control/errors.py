"""Errors that a reconciler may raise for one object; anything else is a bug: logged, backed off, visible."""

from __future__ import annotations


class ReconcileError(Exception):
    """`reason` is one CamelCase word for a condition, `message` a sentence for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class TemporaryError(ReconcileError):
    """Try again later: backs off with jitter and shows in the condition."""


class PermanentError(ReconcileError):
    """Trying again changes nothing: waits for a new spec."""
