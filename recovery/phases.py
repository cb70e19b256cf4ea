"""Legal moves of faults and remediations, taken from the one declaration in the models."""

from __future__ import annotations

from functools import cache


def _pairs(model: str) -> tuple[str, ...]:
    from django.apps import apps

    found = apps.get_model("recovery", model)
    field = found._meta.get_field("phase")
    moves = {(t.source, t.target) for t in field.get_all_transitions(found)}
    return tuple(sorted(f"{source}>{target}" for source, target in moves))


@cache
def fault_moves() -> tuple[str, ...]:
    """`From>To` of every legal move of a fault."""
    return _pairs("Fault")


@cache
def remediation_moves() -> tuple[str, ...]:
    """`From>To` of every legal move of a remediation."""
    return _pairs("Remediation")
