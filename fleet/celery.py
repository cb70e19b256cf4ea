"""The Celery application: hints for workers; PostgreSQL holds the truth. Composition root of the worker processes; beat has its own (`fleet.beat`)."""

from __future__ import annotations

import gc
import os
from typing import Any

from celery import Celery, signals
from django.conf import settings

from fleet.control import ticks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")


app = Celery("fleet")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.broker_url = ticks.broker_url(settings.REDIS_URL)
app.conf.task_default_queue = "fleet"
app.autodiscover_tasks(["fleet.control", "fleet.events", "fleet.api", "clusters", "machines", "recovery"])


@app.on_after_finalize.connect  # type: ignore[untyped-decorator]
def _add_chores(**kwargs: Any) -> None:
    """Models are loaded: chores that need them can be known."""
    from fleet.api.audit import seal
    from fleet.control.operators import Chore, register_chore

    register_chore(Chore("seal-audit", 1.0, run_sync=seal))


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _choose_queues(sender: str, instance: Any, **kwargs: Any) -> None:
    """A worker reads its own queue, the ticks, and either the common queue or those of its idcs."""
    from fleet.control import hints, worker

    worker.name_worker(sender)
    shared = [hints.idc_queue(name) for name in settings.FLEET_IDCS] or [hints.SHARED_QUEUE]
    instance.app.amqp.queues.select([hints.own_queue(sender), ticks.QUEUE, *shared])


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**kwargs: Any) -> None:
    """SIGTERM: the running pass ends at its next step, no new batch is claimed; Celery waits for it."""
    from fleet.control import worker

    worker.begin_stopping()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _share(**kwargs: Any) -> None:
    """Before children are forked: what is there now is never collected, so that the collector does not write into pages that they share."""
    gc.collect()
    gc.freeze()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _watch(**kwargs: Any) -> None:
    """In the main process, at each time that it has connected to the broker."""
    from fleet.control import watchdog

    watchdog.start()


@signals.task_received.connect  # type: ignore[untyped-decorator]
def _heard(**kwargs: Any) -> None:
    """In the main process: a message came in."""
    from fleet.control import watchdog

    watchdog.heard()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin(**kwargs: Any) -> None:
    """In the child, after the fork: the bound of memory, the loop, the connection, the heart."""
    from fleet.control import worker

    worker.bound_memory(settings.FLEET_TASK_MEMORY_MIB)
    worker.runtime()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**kwargs: Any) -> None:
    """In the child: connections are closed and the worker leaves the list."""
    from fleet.control import worker

    worker.end_runtime()
