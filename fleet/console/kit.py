"""`/kit`: every component in every state, with made-up content. What screenshots and accessibility checks look at."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from django.http import QueryDict
from django.utils import timezone

from fleet.api.rights import Actor
from fleet.console import gates, kit_guard, plane, words
from fleet.console.diffs import lines
from fleet.console.machine_page import Day, Difference
from fleet.console.nodes import NodesView, Reported
from fleet.console.overview import Need
from fleet.console.page import Page
from fleet.console.queries import Budget, Refusal
from fleet.console.words import Stage, Word
from fleet.control.kinds import Json

_DIFF = """--- /etc/containerd/config.toml on the host
+++ /etc/containerd/config.toml wanted
@@ -41,4 +41,4 @@
 [plugins."io.containerd.cri.v1.images"]
   snapshotter = "overlayfs"
-  max_concurrent_downloads = 30
+  max_concurrent_downloads = 3
   discard_unpacked_layers = true"""


def kit(actor: Actor, query: QueryDict) -> Page:
    """One page with all of it."""
    now = timezone.now()
    phases = Counter(Running=555_483, Provisioning=3_729, Repairing=1_637, Failed=4_244, Pending=19_960, Retired=9_280)
    context: dict[str, Any] = {
        "tones": [(w, t, s) for w, t, s in words.STATES.values()],
        "phases": sorted(words.PHASES),
        "parts": words.legend(phases),
        "total": phases.total(),
        "sentence": [
            Word("4,244 machines", "#o-needs", "bad"),
            Word(" need you, 3 causes; Fleet works on "),
            Word("5,366 machines", "/machines?q=state:busy"),
            Word(" and "),
            Word("17 changes", "/safety", "held"),
            Word(" wait for a permit. 555,483 of 594,333 run as declared."),
        ],
        "needs": [
            Need("4,112 machines: InstallFailed", "/machines?q=state:bad", "iad1-r112-u07: Install kubelet: the disk is full.", words.next_step("DiskFull"), (now - timedelta(minutes=6)).isoformat(), "iad1-ads", 4_112),
            Need("fra1-r231-u02", "/machines", "The host shows another serial number.", words.next_step("IdentityMismatch"), (now - timedelta(hours=2)).isoformat(), "fra1-pay", 1, "warn"),
        ],
        "refused": [
            Refusal("ClusterBudget", "iad1-ads", 4_061, now - timedelta(minutes=6), "In cluster iad1-ads 600 of 20,000 machines are unavailable, and at most 600 may be: this waits until one is back."),
            Refusal("Held", "", 17, now - timedelta(hours=5), "Hold quarter-close of m.ito covers it: quarter close"),
        ],
        "waiting": 4_078,
        "budgets": [Budget("cluster", "iad1-ads", 600, 20_000, 4_112, ""), Budget("cluster", "fra2-batch", 600, 20_000, 566, "batch"), Budget("fleet", "", 12_000, 600_000, 4_244, "all")],
        "stages": [Stage("Fetch", "done", "", 5), Stage("Permit", "done", "Granted", 1), Stage("kubelet", "now", "2 of 3", 3), Stage("Reboot", "later", "", 1), Stage("Verify", "later", "", 1)],
        "stages_bad": [Stage("Fetch", "done", "", 1), Stage("Permit", "wait", "ClusterBudget", 1), Stage("kubelet", "failed", "InstallFailed", 2), Stage("Verify", "later", "", 1)],
        "differences": [Difference("file", "/etc/containerd/config.toml", "sha256 2bcfc82cd862", "sha256 91ab03c0ffee", "Restart", tuple(lines(_DIFF))), Difference("unit", "containerd.service", "enabled, started", "masked, inactive", "Restart")],
        "plan": {"disruption": "Restart", "blocked": {"message": "Hold quarter-close of m.ito covers it."}},
        "ladders": _ladders(now.isoformat()),
        "days": [Day("Tuesday 24 November", tuple(_events(now)))],
        "conditions": [{"type": t, "status": s, "reason": "Example", "message": "A sentence for people.", "lastTransitionTime": now.isoformat()} for t, s in (("Ready", "True"), ("Reachable", "False"), ("HostHealthy", "Unknown"), ("Held", "True"), ("Stalled", "True"), ("Drifted", "False"))],
        "packages": [{"name": "kubelet", "wanted": "1.37.2", "seen": "1.36.3", "origin": "cluster default", "state": "Differs", "message": "Waits for its permit."}, {"name": "npd", "wanted": "0.8.19", "seen": "0.8.19", "origin": "this machine", "state": "UpToDate", "message": ""}],
        "layer_rows": [SimpleNamespace(layer="cluster", name="iad1-ads", state=s, created_at=now, message=m, canary="iad1-r112-u07") for s, m in (("Canary", "The first machine has it and is watched for 60 s."), ("Stopped", "iad1-r112-u07 failed."))],
        **_cluster(now.isoformat()),
        **kit_guard.context(now),
        "may_write": True, "may_approve": True, "name": "iad1-r112-u07", "m": {"conditions": {}}, "can_write": True,
    }  # fmt: skip
    return Page("console/kit.html", "Kit", context, section="kit")


def _cluster(now: str) -> dict[str, Any]:
    """A control plane on its way, its nodes and gates, and a machine that waits for some."""
    standing = {
        "etcd": "k8s-1.37.2",
        "kube-apiserver": "k8s-1.37.2",
        "kube-controller-manager": "k8s-1.36.3",
        "kube-scheduler": "k8s-1.36.3",
    }
    rules = (
        ("NodeReady", "RequireTrue", "Continuous", "True"),
        ("KernelDeadlock", "ForbidTrue", "Continuous", "True"),
        ("DiskHealthy", "RequireTrue", "Continuous", "False"),
        ("GpuReady", "RequireTrue", "BootstrapOnly", "Unknown"),
    )
    given = [
        {
            "conditionType": t,
            "polarity": p,
            "mode": m,
            "source": "cluster",
            "status": s,
            "reason": "Example",
            "message": "disk sda answers in 4 s" if s == "False" else "",
            "since": now,
            "owner": "reporter npd",
        }
        for t, p, m, s in rules
    ]
    obj: Json = {
        "spec": {"provider": "Local", "packageVersion": "k8s-1.37.2"},
        "status": {
            "endpoint": "https://10.0.0.9:6443", "packageVersion": "k8s-1.36.3", "snapshotFor": "k8s-1.37.2", "componentVersions": standing,
            "components": [{"name": n, "wanted": "1.37.2", "seen": "1.37.2", "ready": r, "message": ""} for n, r in (("etcd", "True"), ("kube-apiserver", "False"), ("kube-scheduler", "Unknown"))],
            "steps": [{"name": "etcd", "status": "True", "startTime": now, "endTime": now}, {"name": "kube-apiserver", "status": "Running", "startTime": now, "message": "is starting"}],
            "certificates": [{"name": n, "notAfter": "2027-11-25T20:00:00Z"} for n in ("apiserver.crt", "etcd-server.crt")],
            "snapshots": [{"name": "20261125T214201Z-upgrade.db", "takenAt": now, "size": 21_340_160, "packageVersion": "k8s-1.36.3"}],
            "gates": [g | {"held": 4 * n, "released": 19_980, "unknown": n, "dryRun": n == 2} for n, g in enumerate(given)],
            "readinessGates": given, "scheduling": {"state": "Closed", "message": "gate DiskHealthy does not hold", "since": now},
        },
    }  # fmt: skip
    counts = {"total": 20_000, "ready": 19_950, "open": 19_940, "unknown": 12, "undeclared": 2}
    reported = [
        Reported("NodeReady", 19_950, 38, 12, True),
        Reported("MemoryPressure", 3, 19_985, 12, False),
        Reported("VendorSaysSo", 9_000, 10_000, 1_000),
    ]
    listed = [{"name": f"stray-{n}", "total": 2} for n in range(2)]
    nodes = NodesView(counts, reported, listed, [{"name": "iad1-r112-u07", "total": 1}])
    return {
        "obj": obj,
        "plane": plane.view(obj),
        "nodes": nodes,
        "gates": gates.of_cluster(obj),
        "waits": gates.of_machine(obj),
    }


def _ladders(now: str) -> list[dict[str, Any]]:
    def rung(text: str, answer: str, said: str = "", actions: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
        return {
            "text": text,
            "answer": answer,
            "owner": "safety",
            "since": now,
            "explanation": said,
            "actions": actions,
        }

    return [
        {
            "question": "What stands in the way of a change?",
            "rungs": [
                rung("Nobody holds it", "holds"),
                rung("No removal waits for a confirmation", "no", "npd would be removed and its files with it.",
                     ({"annotation": "fleet.dev/confirm-removal", "value": "4961c15e30dfbdba"}, {"verb": "reconcile", "text": "Try again"})),
                rung("The host is fit for a change", "notAsked"),
            ],
        },
        {"question": "Why is it not at its final state?", "rungs": [rung("The host answers", "unknown", "No word for 31 min."), rung("Packages are as accepted", "notAsked")]},
    ]  # fmt: skip


def _events(now: Any) -> list[dict[str, Any]]:
    kinds = (("ok", "Phase went from Updating to Running."), ("bad", "Install kubelet: the disk is full."), ("warn", "No route to 10.0.0.27:22."), ("person", "Hold was created by m.ito."), ("off", "The host answers."))  # fmt: skip
    told = [
        {"at": now, "icon": i, "tone": i if i != "person" else "off", "message": m, "by": "machines"} for i, m in kinds
    ]
    return [*told[:2], {"gap": "no events 02:10–09:01"}, *told[2:]]
