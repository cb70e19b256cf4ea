"""`status`, `why` and `diff`: how the fleet stands, and why one machine is as it is."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import psycopg
import typer
from rich.table import Table

from fleet.cli.environment import CliError, database_url, out, start_django
from fleet.safety import switch

Json = dict[str, Any]
ANSWERS = {"holds": "yes", "no": "NO", "unknown": "?", "notAsked": "-"}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(status)
    app.command()(why)
    app.command()(diff)


def status() -> None:
    """The kill switch, clusters, budgets, the loop's lag, and what is refused."""
    url = database_url()
    now = switch.state(dsn=url)
    if now.stopped:
        out.print(
            f"STOPPED since {now.since:%Y-%m-%d %H:%M} UTC by {now.by}: {now.why}", markup=False, style="bold red"
        )
    else:
        out.print("running: the kill switch is off", markup=False)
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as conn:
        life = conn.execute("SELECT installation::text, incarnation FROM installation WHERE id = 1").fetchone()
        out.print(f"installation {life[0]}, incarnation {life[1]}" if life else "no installation row", markup=False)
        out.print(_clusters(conn))
        _loop(conn)
        for reason, count, example in conn.execute(_REFUSALS).fetchall():
            out.print(f"refused, {reason}: {count} machine{'s' if count != 1 else ''}. {example}", markup=False)


_CLUSTERS = """
SELECT coalesce(c.name, '(no cluster)'), string_agg(q.phase || ' ' || q.n, ', ' ORDER BY q.n DESC), l.total, l.gone, l.cap
FROM (SELECT cluster_id, phase, sum(n)::bigint AS n FROM (SELECT cluster_id, phase, n FROM count_total UNION ALL SELECT cluster_id, phase, n FROM count_delta) t
      GROUP BY 1, 2 HAVING sum(n) <> 0) q
LEFT JOIN clusters_cluster c ON c.id = q.cluster_id
LEFT JOIN safety_limits((SELECT array_agg(m) FROM (SELECT DISTINCT ON (cluster_id) machine_id AS m FROM capacity ORDER BY cluster_id, machine_id) x)) l
  ON l.dim = 'cluster' AND l.key = q.cluster_id
GROUP BY c.name, l.total, l.gone, l.cap ORDER BY 1"""
_LOOP = "SELECT count(*) FILTER (WHERE holder IS NULL), count(*) FILTER (WHERE holder IS NOT NULL), coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE holder IS NULL AND due_at <= now())), 0)::float8 FROM work_item WHERE due_at <= now() OR holder IS NOT NULL"
_REFUSALS = "SELECT reason, count(*), min(message) FROM refusal GROUP BY 1 ORDER BY 2 DESC LIMIT 8"


def _clusters(conn: psycopg.Connection[Any]) -> Table:
    table = Table("cluster", "machines", "in service", "unavailable", "at most", box=None, pad_edge=False)
    for name, phases, total, gone, cap in conn.execute(_CLUSTERS).fetchall():
        table.add_row(name, phases, *("" if n is None else str(n) for n in (total, gone, cap)))
    return table


def _loop(conn: psycopg.Connection[Any]) -> None:
    row = conn.execute(_LOOP).fetchone()
    assert row is not None  # an aggregate always gives one row
    out.print(f"loop: {row[0]} due, {row[1]} in work, the oldest waits {row[2]:.0f} s", markup=False)


def why(
    target: Annotated[str, typer.Argument(help="machine/NAME")],
    verb: Annotated[str, typer.Option(help="What the safety ledger is asked about; nothing is granted.")] = "Reboot",
    repair: Annotated[bool, typer.Option("--repair", help="As for a repair, not for a planned change.")] = False,
) -> None:
    """Why a machine is as it is: each question with its answers in order; the first NO is the cause."""
    machine = _machine(target)
    from fleet.api.rights import SYSTEM
    from fleet.api.subresources import subresource

    answer = subresource("machines", "why")
    if answer is None:
        raise CliError("this Fleet has no answers to why.")
    for question in answer.get(machine, SYSTEM)["ladders"]:
        out.print(question["question"], style="bold", markup=False)
        for rung in question["rungs"]:
            mark = ANSWERS.get(rung["answer"], rung["answer"])
            more = f"  {rung['explanation']}" if rung.get("explanation") else ""
            out.print(f"  {mark:<4}{rung['text']}{more}", markup=False)
    _guards(machine["metadata"]["name"], verb, repair)


def _guards(name: str, verb: str, repair: bool) -> None:
    """The ledger's guards, all of them: more than one may stand in the way."""
    from fleet.api.storage import storage_for
    from fleet.safety.reasons import read_why

    out.print(f"May {verb} begin on {name} now{', as a repair' if repair else ''}?", style="bold", markup=False)
    for id_ in storage_for("machines").ids_of([name]):
        for guard in read_why(id_, verb, unplanned=repair):
            more = f"  {guard.message}" if guard.message else ""
            out.print(f"  {'yes' if guard.ok else 'NO':<4}{guard.text}{more}", markup=False)


def diff(target: Annotated[str, typer.Argument(help="machine/NAME")]) -> None:
    """What differs on a machine from what it shall be, as last seen, and what Fleet would do about it."""
    machine = _machine(target)
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT f.plan::text, f.at FROM machine_fact f JOIN machine m ON m.id = f.machine_id WHERE m.name = %s",
            [machine["metadata"]["name"]],
        )
        row = cursor.fetchone()
    if row is None:
        raise CliError("it was never seen.")
    diffs = orjson.loads(row[0]).get("diffs", [])
    out.print(f"As seen at {row[1]:%Y-%m-%d %H:%M:%S} UTC:", markup=False)
    if not diffs:
        out.print("no difference.", markup=False)
    for each in diffs:
        out.print(
            f"{each['kind']} {each['name']}: wanted {each.get('wanted') or 'none'}, seen {each.get('seen') or 'none'}"
            f" (disruption {each.get('disruption', 'None')})",
            markup=False,
        )
        if each.get("diff"):
            out.print(each["diff"], markup=False, style="dim")


def _machine(target: str) -> Json:
    kind, slash, name = target.partition("/")
    name = name if slash else kind
    if slash and kind not in ("machine", "machines"):
        raise CliError(f"{target!r}: write machine/NAME.")
    start_django()
    from fleet.api.storage import storage_for

    found = storage_for("machines").read(name)
    if found is None:
        raise CliError(f"there is no machine named {name!r}.")
    return found.obj
