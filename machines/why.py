"""Why, and why not: the questions that people ask of a machine, answered rung by rung in one order. Pure but for reading rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import orjson
from django.db import connection

from fleet.api.rights import Actor
from fleet.control.kinds import Json
from machines.conditions import TYPES
from machines.judge import ACCEPT_DIFF, CONFIRM_REMOVAL

Answer = Literal["holds", "no", "unknown", "notAsked"]
_FACT: Final = """SELECT f.facts::text, f.plan::text, f.at FROM machine_fact f JOIN machine m ON m.id = f.machine_id WHERE m.name = %s"""
_OPEN: Final = """SELECT o.name, o.phase, o.spec::text, o.status::text FROM machines_operation o JOIN machine m ON m.id = o.machine_id
  WHERE m.name = %s AND o.ended_at IS NULL ORDER BY o.started_at NULLS LAST, o.owner_class DESC LIMIT 1"""


def why_of(obj: Json, actor: Actor) -> Json:
    """`GET …/machines/<name>/why`: {"ladders": [...], "plan": {...}}."""
    name = obj["metadata"]["name"]
    with connection.cursor() as cursor:
        cursor.execute(_FACT, [name])
        fact = cursor.fetchone()
        cursor.execute(_OPEN, [name])
        found = cursor.fetchone()
    plan = orjson.loads(fact[1]) if fact else {}
    operation = (
        {"name": found[0], "phase": found[1], "spec": orjson.loads(found[2]), "status": orjson.loads(found[3])}
        if found
        else None
    )
    ladders = [*why(obj, plan, operation), *(ladder for asked in _more for ladder in asked(obj))]
    return {"ladders": ladders, "plan": plan, "facts": _shown(orjson.loads(fact[0])) if fact else {}}


_more: list[Callable[[Json], list[Json]]] = []


def more_ladders(asked: Callable[[Json], list[Json]]) -> None:
    """Apps above answer questions of their own about a machine."""
    if asked not in _more:
        _more.append(asked)


def plan_of(obj: Json, actor: Actor) -> Json:
    """`GET …/machines/<name>/plan`: what Fleet would do or does, with the disruption of each difference."""
    with connection.cursor() as cursor:
        cursor.execute(_FACT, [obj["metadata"]["name"]])
        fact = cursor.fetchone()
    plan: Json = orjson.loads(fact[1]) if fact else {}
    return {"plan": plan}


def _shown(facts: Json) -> Json:
    return {k: v for k, v in facts.items() if k != "memory"}


def why(obj: Json, plan: Json, operation: Json | None) -> list[Json]:
    """The ladders of one machine. The first rung that does not hold is the answer; those below it were not asked."""
    conditions = {c["type"]: c for c in obj.get("status", {}).get("conditions", [])}
    name = obj["metadata"]["name"]
    reach = _rung(conditions, "Reachable", "The host answers and is the right one")
    ladders = [
        ladder_of(
            f"Why is {name} {'' if _status(conditions, 'Ready') == 'True' else 'not '}at its final state?",
            [
                _rung(conditions, "VersionsResolved", "Every version asked for names one package version"),
                _rung(conditions, "Verifiable", "Every artifact can be verified"),
                reach,
                _rung(conditions, "PackagesUpToDate", "Packages are as accepted"),
                _rung(conditions, "ConfigUpToDate", "Files, units, sysctls and modules are as accepted"),
                _rung(conditions, "KernelUpToDate", "Kernel and boot parameters are as accepted"),
                _rung(conditions, "HostHealthy", "Health checks hold"),
                _rung(conditions, "UpToDate", "This generation is reached"),
            ],
        ),
        ladder_of("What stands in the way of a change?", [reach, *_way(conditions, plan, operation)]),
    ]
    if obj.get("status", {}).get("scheduling", {}).get("state", "NotANode") != "NotANode":
        ladders.append(_scheduling(name, obj["status"], conditions))
    if obj["metadata"].get("deletionTimestamp"):
        ladders.insert(
            0,
            ladder_of(
                f"Why is {name} not gone yet?", [_rung(conditions, "Decommissioned", "It was cleaned and may go")]
            ),
        )
    return ladders


def _scheduling(name: str, status: Json, conditions: dict[str, Json]) -> Json:
    """Whether the node takes workloads: it is there, nobody else keeps it closed, and each gate."""
    said = status["scheduling"]
    open_ = said["state"] == "Open"
    question = f"Why does the node of {name} {'' if open_ else 'not '}take workloads?"
    joined: Answer = "no" if said["state"] == "Joining" else "holds"
    cordoned: Answer = "no" if said["state"] == "CordonedByPerson" else "holds"
    rungs = [
        plain_rung("The cluster has its node", joined, said["message"] if joined == "no" else "", "watcher"),
        plain_rung("No person cordoned it", cordoned, said["message"] if cordoned == "no" else "", "a person"),
        *(
            _gate(g)
            for g in status.get("readinessGates", [])
            if not g.get("dryRun") and (not open_ or g["status"] == "True")
        ),
        _rung(conditions, "Schedulable", "The node is open"),
    ]
    return ladder_of(question, rungs)


def _gate(gate: Json) -> Json:
    answer: Answer = {"True": "holds", "False": "no"}.get(gate["status"], "unknown")  # type: ignore[assignment]
    text = f"{gate['conditionType']} {'is True' if gate['polarity'] == 'RequireTrue' else 'is not True'} ({gate['source']})"
    out = plain_rung(text, answer, gate.get("message", "") or gate.get("reason", ""), gate.get("owner", ""))
    return out | {"since": gate.get("since", "")}


def _way(conditions: dict[str, Json], plan: Json, operation: Json | None) -> list[Json]:
    """Holds, words of people, fitness of the host, the permit, the step."""
    blocked = plan.get("blocked", {})
    rungs = [
        _negative(conditions, "Held", "Nobody holds it", [{"verb": "release", "text": "Release the hold"}]),
        _negative(conditions, "Stalled", "Nothing needs a person", _person(conditions, plan)),
        _negative(
            conditions,
            "RemovalHeld",
            "No removal waits for a confirmation",
            _word(CONFIRM_REMOVAL, plan.get("removalHash")),
        ),
        plain_rung(
            "A change may be begun", "no" if blocked else "holds", blocked.get("message", ""), "machine-operator"
        ),
        _rung(conditions, "Preflight", "The host is fit for a change"),
    ]
    if operation is None:
        return [
            *rungs,
            plain_rung("An Operation is open", "notAsked", "Nothing is to be done now.", "machine-operator"),
        ]
    step = next((s for s in operation["status"].get("steps", []) if s["status"] != "True"), None)
    if step is None:
        return rungs
    text = f"{operation['name']}: step {step['name']}"
    permit = conditions.get("ChangeAllowed", {})
    if step["verb"] == "permit" and permit.get("status") == "False":
        rungs.append(_rung(conditions, "ChangeAllowed", "Safety grants the permit", "safety"))
    answer: Answer = "no" if step["status"] == "False" else "unknown"
    said = step.get("message") or ("It runs." if step.get("running") else "It waits.")
    return [
        *rungs,
        plain_rung(
            text,
            answer,
            said,
            operation["spec"].get("owner", "machine-operator"),
            [{"verb": "cancel", "text": "Cancel the Operation"}],
        ),
    ]


def _person(conditions: dict[str, Json], plan: Json) -> list[Json]:
    if conditions.get("Stalled", {}).get("reason") == "Adopted":
        return _word(ACCEPT_DIFF, plan.get("diffHash"))
    return [{"verb": "reconcile", "text": "Try again"}]


def _word(annotation: str, value: Any) -> list[Json]:
    return [{"annotation": annotation, "value": value, "text": f"Annotate {annotation}={value}"}] if value else []


def _status(conditions: dict[str, Json], type_: str) -> str:
    return str(conditions.get(type_, {}).get("status", "Unknown"))


def _rung(conditions: dict[str, Json], type_: str, text: str, owner: str = "") -> Json:
    found = conditions.get(type_, {})
    answer: Answer = {"True": "holds", "False": "no"}.get(found.get("status", ""), "unknown")  # type: ignore[assignment]
    out = plain_rung(text, answer, found.get("message", "") or found.get("reason", ""), owner or TYPES[type_][1])
    return out | {"since": found.get("lastTransitionTime", ""), "condition": type_}


def _negative(conditions: dict[str, Json], type_: str, text: str, actions: Sequence[Json]) -> Json:
    """A condition whose True stands in the way."""
    found = conditions.get(type_, {})
    answer: Answer = {"True": "no", "False": "holds"}.get(found.get("status", ""), "unknown")  # type: ignore[assignment]
    said = found.get("message", "") if answer == "no" else ""
    out = plain_rung(text, answer, said, TYPES[type_][1], actions if answer == "no" else ())
    return out | {"since": found.get("lastTransitionTime", ""), "condition": type_}


def plain_rung(text: str, answer: Answer, explanation: str, owner: str, actions: Sequence[Json] = ()) -> Json:
    return {
        "text": text,
        "answer": answer,
        "owner": owner,
        "since": "",
        "explanation": explanation,
        "actions": list(actions),
    }


def ladder_of(question: str, rungs: Sequence[Json]) -> Json:
    """Below the first rung that does not hold nothing was asked: what it would say is not known to matter."""
    out: list[Json] = []
    broken = False
    for rung in rungs:
        out.append(rung | {"answer": "notAsked", "explanation": "", "actions": []} if broken else rung)
        broken = broken or rung["answer"] in ("no", "unknown")
    return {"question": question, "rungs": out}
