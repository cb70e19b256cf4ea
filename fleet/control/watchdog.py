"""A watchdog for a worker that is alive but deaf: connected to a broker that has nothing for it any more, or only thinks that it is.

It lives in a thread of the worker's main process and calls the worker by the worker's own queue, over a connection of its own. Who
answers none of its calls while nothing keeps it busy is ended; the supervisor (systemd, `make up`) starts it again. What is called
is a tick and housekeeping, so that the loop goes on, more slowly, where beat is away.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

import redis
from billiard.process import active_children
from celery.worker import state
from django.conf import settings
from kombu.exceptions import OperationalError as BrokerError

from fleet.control import hints, tasks, worker

log = logging.getLogger(__name__)

CALLS = 4  # in each span of FLEET_DEAF_SECONDS
END_SECONDS = (
    30.0  # for a warm end: a pass ends at its next step; who is stuck so that he does not see it is ended cold
)
EXIT_CODE = 1  # also a supervisor that restarts only after failures starts it again


class Watchdog:
    """Counts calls that were taken by the broker and not heard by the worker. Counted, not timed: a machine that slept is not deaf.

    `call` raises when the broker does not take it. Then the count starts anew, as it does while the worker is busy: a broker that
    is away for everybody, or a long pass, ends no worker, and none is ended sooner than FLEET_DEAF_SECONDS after its start.
    """

    def __init__(self, call: Callable[[], None], busy: Callable[[], bool]) -> None:
        self._call, self._busy = call, busy
        self._unheard = 0

    def heard(self) -> None:
        """The worker received something."""
        self._unheard = 0

    def finds_it_deaf(self) -> bool:
        """Call once more; whether all of the last calls stayed unheard."""
        if self._busy():
            self._unheard = 0
            return False
        try:
            self._call()
        except (BrokerError, redis.RedisError, OSError) as error:
            log.warning("the worker is not called: the broker does not answer: %s", error)
            self._unheard = 0
            return False
        self._unheard += 1
        return self._unheard > CALLS


_watchdog: Watchdog | None = None


def start() -> None:
    """Begin to watch over this worker; in its main process, once it is ready. A worker that connects again is ready again."""
    global _watchdog
    if _watchdog is None and settings.FLEET_DEAF_SECONDS > 0:
        _watchdog = Watchdog(_call, _is_busy)
        threading.Thread(target=_watch, args=(_watchdog,), name="fleet-watchdog", daemon=True).start()


def heard() -> None:
    """The main process received a task."""
    if _watchdog is not None:
        _watchdog.heard()


def _watch(watchdog: Watchdog) -> None:
    pause = threading.Event()
    while not pause.wait(settings.FLEET_DEAF_SECONDS / CALLS):
        if worker.is_stopping():
            return
        if watchdog.finds_it_deaf():
            log.error("nothing was heard from the broker for %g s, though it answers: this worker ends, to be started again", settings.FLEET_DEAF_SECONDS)  # fmt: skip
            _end()
            pause.wait(END_SECONDS)
            _end_now()


def _call() -> None:
    """A connection of its own for each call: one that is kept might be as deaf as the worker's."""
    queue = hints.own_queue(worker.worker_name())
    with tasks.tick.app.connection_for_write() as connection:
        for task in (tasks.tick, tasks.housekeeping):
            task.apply_async(queue=queue, connection=connection, retry=False)


def _is_busy() -> bool:
    """Something was received and is not done: the worker fetches nothing more, and shall not."""
    return bool(len(state.reserved_requests) or len(state.active_requests))


def _end() -> None:
    """As SIGTERM does it: the loop of the main process sees it at its next turn and waits for the pass that runs."""
    worker.begin_stopping()
    state.should_stop = EXIT_CODE


def _end_now() -> None:
    """Children first: one that outlives its parent would hold its leases, and do nothing any more."""
    log.error("the worker did not end by itself within %g s", END_SECONDS)
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    os._exit(EXIT_CODE)
