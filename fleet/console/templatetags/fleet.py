"""What templates need: icons, pills, ages, grouped numbers, bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from fleet.console import diffs, words
from fleet.console.breakers import STATES as STATES_OF_BREAKERS
from fleet.console.repair import FAULT_WORDS, REMEDIATION_WORDS
from fleet.console.words import ANSWERS, BATCHES, NEGATIVE, PHASES, STATES, Part
from fleet.control.kinds import API_VERSION
from fleet.safety.schema import describe_target

register = template.Library()


@register.simple_tag
def icon(name: str, label: str = "", tone: str = "") -> SafeString:
    """One icon of the sprite; with a label it speaks, without it is decoration."""
    href = f"{static('img/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="i {}" role="img" aria-label="{}"><use href="{}"/></svg>', tone, label, href)
    return format_html('<svg class="i {}" aria-hidden="true"><use href="{}"/></svg>', tone, href)


@register.simple_tag
def pill(tone: str, text: str) -> SafeString:
    """Icon, colour and word: never colour alone."""
    return format_html('<span class="pill {}">{}{}</span>', tone, icon(tone if tone != "later" else "off"), text)


@register.simple_tag
def state_pill(state: str, phase: str = "Running") -> SafeString:
    """The pill of a machine's state; a machine that is well but does not run yet says its phase."""
    word, tone, _ = STATES.get(state, STATES["unknown"])
    if state == "ok" and phase != "Running":
        return pill("unknown", phase or "Pending")
    return pill(tone, word)


@register.simple_tag
def phase_pill(phase: str) -> SafeString:
    """The pill of an Operation's or Cluster's phase (a Cluster that runs is well, an Operation that runs is busy)."""
    return pill(PHASES.get(phase, "unknown"), phase)


@register.simple_tag
def cluster_pill(phase: str | None) -> SafeString:
    """The pill of a cluster: one that runs is well."""
    return pill("ok", "Running") if phase == "Running" else pill(PHASES.get(phase or "", "unknown"), phase or "Pending")


STEPS = {"done": ("ok", "done"), "failed": ("bad", "failed"), "now": ("busy", "under way"), "wait": ("held", "waits")}


@register.simple_tag
def step_icon(state: str) -> SafeString:
    """The icon of a step."""
    name, label = STEPS.get(state, ("later", "later"))
    return icon(name, label, "off" if name == "later" else name)


@register.simple_tag
def owner_class(number: int) -> str:
    """Who wants an Operation, in a word."""
    return ("for drift", "for a layer", "for a repair", "for a person")[min(max(int(number), 0), 3)]


@register.simple_tag
def rung_actions(actions: Sequence[dict[str, Any]], may_write: bool, may_approve: bool) -> SafeString:
    """What a person may do about the rung that stops: buttons for whom they work, else one sentence with the role that it takes."""
    has = {"": True, "operator": may_write, "approver": may_approve}
    shown = [_rung_action(a) for a in actions if has[_role_of(a)]]
    lacking = sorted({_role_of(a) for a in actions if not has[_role_of(a)]})
    if lacking:
        shown.append(format_html('<span class="sub">{}</span>', _takes(lacking, actions)))
    return format_html_join("", "{}", ((each,) for each in shown))


def _role_of(action: dict[str, Any]) -> str:
    """Who may do it: words for a hash are approvers', acts are operators', looking is everybody's."""
    return "approver" if "annotation" in action else "" if "href" in action else "operator"


def _takes(roles: Sequence[str], actions: Sequence[dict[str, Any]]) -> str:
    words_of = [_word(a).rstrip("…") for a in actions if _role_of(a) == "approver"]
    if roles == ["approver"] and words_of:
        return f"“{words_of[0]}” takes the role approver here."
    return f"To do something about it takes the role {' or '.join(reversed(roles))} here."


def _word(action: dict[str, Any]) -> str:
    return "Accept the difference…" if action["annotation"].endswith("accept-diff") else "Confirm the removal…"


def _rung_action(action: dict[str, Any]) -> SafeString:
    if "annotation" in action:
        return word_button(action["annotation"], action["value"])
    if "href" in action:
        return format_html('<a class="btn" href="{}">{}</a>', action["href"], action["text"])
    if "open" in action:
        return format_html(
            '<button type="button" class="btn" data-open="{}" data-set-fault="{}">{}</button>',
            action["open"],
            action["set"],
            action["text"],
        )
    if action["verb"] == "cancel":
        return format_html('<button type="button" class="btn" data-open="#do-cancel">{}…</button>', action["text"])
    return format_html('<button class="btn" form="f-{}">{}</button>', action["verb"], action["text"])


@register.simple_tag
def word_button(annotation: str, value: str) -> SafeString:
    """The button of an approver's word for a hash."""
    return format_html(
        '<button type="button" class="btn go" data-open="#do-confirm" data-set-annotation="{}" data-set-value="{}">{}</button>',
        annotation,
        value,
        _word({"annotation": annotation}),
    )


@register.simple_tag
def hold_target(hold: dict[str, Any]) -> SafeString:
    """What a hold covers, as a link where there is a page."""
    target = hold["spec"].get("target", {})
    if "machine" in target:
        return format_html('<a class="mono" href="/machines/{0}/why">{0}</a>', target["machine"])
    if "cluster" in target:
        return format_html('<a class="mono" href="/clusters/{0}">{0}</a>', target["cluster"])
    return format_html("{}", describe_target(target))


@register.simple_tag
def fault_pill(phase: str) -> SafeString:
    """How far a fault is."""
    return pill(*FAULT_WORDS.get(phase, ("unknown", phase)))


@register.simple_tag
def batch_pill(phase: str) -> SafeString:
    """How far a batch is."""
    return pill(*BATCHES.get(phase, ("unknown", phase)))


TARGETS = {"Waiting": ("later", "Waits"), "Open": ("busy", "Under way"), "Succeeded": ("ok", "Done"), "Failed": ("bad", "Failed"), "Skipped": ("off", "Skipped")}  # fmt: skip


@register.simple_tag
def target_pill(state: str) -> SafeString:
    """What became of one machine of a batch."""
    return pill(*TARGETS.get(state, ("unknown", state)))


@register.simple_tag
def remediation_pill(phase: str) -> SafeString:
    """How far a remediation is."""
    return pill(*REMEDIATION_WORDS.get(phase, ("unknown", phase)))


@register.simple_tag
def seconds(value: Any) -> str:
    """A number of seconds as people say it."""
    return words.span(float(value)) if isinstance(value, int | float) else "–"


@register.simple_tag
def policy_scope(policy: dict[str, Any]) -> str:
    """Where a policy holds."""
    return describe_target(policy["spec"].get("scope", {}))


@register.simple_tag
def breaker_pill(state: str) -> SafeString:
    """How a breaker stands."""
    return pill(*STATES_OF_BREAKERS.get(state, ("unknown", state)))


@register.simple_tag
def condition_icon(status: str, type_: str = "") -> SafeString:
    """How a condition stands. Stalled, Drifted, Held, Reconciling, RemovalHeld are bad or busy when True."""
    if status == "Unknown":
        return icon("unknown", "Unknown", "unknown")
    if type_ in NEGATIVE:
        return icon(NEGATIVE[type_], status, NEGATIVE[type_]) if status == "True" else icon("ok", status, "ok")
    return icon("ok", status, "ok") if status == "True" else icon("bad", status, "bad")


@register.simple_tag
def answer_icon(answer: str) -> SafeString:
    """The icon of a rung."""
    name, label = ANSWERS.get(answer, ANSWERS["unknown"])
    return icon(name, label, "off" if name == "later" else name)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and value:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


@register.simple_tag
def ago(value: Any) -> SafeString:
    """An age that the page keeps ticking; the exact time on hover."""
    moment = _moment(value)
    if moment is None:
        return mark_safe("")
    text = words.span((timezone.now() - moment).total_seconds())
    return format_html(
        '<time data-at="{}" datetime="{}" title="{}">{}</time>',
        int(moment.timestamp()),
        moment.isoformat(),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        text,
    )


@register.simple_tag
def age(value: Any) -> str:
    """An age as plain text, for where no element may stand."""
    moment = _moment(value)
    return words.span((timezone.now() - moment).total_seconds()) if moment else ""


@register.simple_tag
def moment(value: Any) -> str:
    """A day and a time, UTC."""
    found = _moment(value)
    return found.strftime("%-d %b %H:%M") if found else ""


@register.simple_tag
def until(value: Any) -> str:
    """When something ends, or ended."""
    moment = _moment(value)
    if moment is None:
        return ""
    left = (moment - timezone.now()).total_seconds()
    return f"ended {moment:%-d %b %H:%M}" if left <= 0 else f"ends {moment:%-d %b %H:%M}"


@register.simple_tag
def local(value: Any) -> SafeString:
    """A moment that the page tells in the reader's own zone; UTC until a script has done so."""
    found = _moment(value)
    if found is None:
        return mark_safe("")
    return format_html(
        '<time data-local="{}" datetime="{}">{}</time>',
        int(found.timestamp()),
        found.isoformat(),
        found.strftime("%a %H:%M UTC"),
    )


@register.simple_tag
def took(start: Any, end: Any) -> str:
    """How long a step took, or when it was decided."""
    begun, ended = _moment(start), _moment(end)
    if begun and ended:
        return words.span((ended - begun).total_seconds())
    moment = begun or ended
    return moment.strftime("%H:%M:%S") if moment else ""


@register.filter
def clock(value: Any) -> str:
    """Hours and minutes, UTC."""
    moment = _moment(value)
    return moment.strftime("%H:%M:%S") if moment else ""


@register.filter
def thin(value: Any) -> str:
    """18,412."""
    return f"{int(value):,}" if isinstance(value, int | float) else str(value)


@register.filter
def as_yaml(value: Any) -> str:
    """An object as people read it."""
    return diffs.as_yaml(value)


@register.filter
def verb_words(verb: str) -> str:
    """What an Operation does, in words."""
    return words.verb_words(verb)


@register.filter
def plainly(text: str) -> str:
    """A sentence about a step as people say it."""
    return words.plainly(text)


@register.filter
def counted(n: int, forms: str) -> str:
    """`3|counted:"differs,differ"` = "3 differ"."""
    one, many = forms.split(",")
    return f"{n:,} {one if n == 1 else many}"


@register.filter
def get(value: Any, key: str) -> Any:
    """A key of a dictionary that is no attribute name."""
    return value.get(key, "") if isinstance(value, dict) else ""


@register.simple_tag
def stacked(parts: Sequence[Part], label: str) -> SafeString:
    """A stacked bar; small parts stay visible, and the numbers are read out."""
    total = sum(p.n for p in parts) or 1
    shown = [(p.swatch, max(4.0, p.n / total * 1000)) for p in parts if p.n]
    scale = 1000 / sum(w for _, w in shown) if shown else 1.0
    rects, at = [], 0.0
    for swatch, width in shown:
        rects.append((swatch, f"{at:.1f}", f"{max(1.0, width * scale - 2):.1f}"))
        at += width * scale
    inner = format_html_join("", '<rect class="{}" x="{}" width="{}" height="14"/>', rects)
    said = f"{label}: {', '.join(f'{p.n:,} {p.word}' for p in parts) or 'none'}"
    return format_html(
        '<svg class="bar" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        said,
        inner,
    )


@register.simple_block_tag(end_name="endfield")
def field(content: str, path: str, label: str, when: str = "") -> SafeString:
    """A control with its label and the place where its problem is told; `when`: providers for which it is asked."""
    return format_html(
        '<div{}><label class="field">{}{}</label><p class="wrong" data-at="{}" id="at-{}" hidden></p></div>',
        format_html(' data-when="{}"', when) if when else "",
        label,
        mark_safe(content),  # rendered by the template already
        path,
        path.replace(".", "-"),
    )


@register.inclusion_tag("console/_command.html")
def operation_command(machine: str, verb: str, key: str = "", value: str = "") -> dict[str, str]:
    """The line that asks for an Operation by hand."""
    spec: dict[str, Any] = {"machine": machine, "verb": verb} | ({key: value} if key else {}) | {"reason": "…"}
    spec = spec | ({"units": ["…"]} if verb == "Restart" else {})
    obj = {
        "apiVersion": API_VERSION,
        "kind": "Operation",
        "metadata": {"generateName": f"{verb.lower()}-"},
        "spec": spec,
    }
    return {"text": f"kubectl create -f - <<< '{json.dumps(obj, ensure_ascii=False)}'"}


@register.inclusion_tag("console/_command.html")
def patch_command(kind: str, name: str, state: str) -> dict[str, str]:
    """The line that pauses (`paused`) or resumes an object."""
    spec = {"spec": {"paused": True if state == "paused" else None}}
    return {"text": f"kubectl patch {kind} {name} --type merge -p '{json.dumps(spec)}'"}


@register.inclusion_tag("console/_command.html")
def mode_command(name: str, mode: str = "…") -> dict[str, str]:
    """The line that changes the mode of a rule."""
    return {
        "text": f"kubectl patch faultrule {name} --type merge -p '{json.dumps({'spec': {'mode': mode}}, ensure_ascii=False)}'"
    }


@register.inclusion_tag("console/_command.html")
def cancel_command(name: str) -> dict[str, str]:
    """The line that cancels a remediation."""
    return {"text": f"kubectl patch remediation {name} --type merge -p '{json.dumps({'spec': {'cancelled': True}})}'"}


@register.inclusion_tag("console/_command.html")
def command(text: str) -> dict[str, str]:
    """A line that does or shows the same by hand."""
    return {"text": text}
