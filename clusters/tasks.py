"""The Cluster-Operator in the loop."""

from __future__ import annotations

from clusters.reconcile import reconcile
from fleet.control.operators import Chore, register_chore

register_chore(Chore("clusters", 3.0, run_sync=reconcile))
