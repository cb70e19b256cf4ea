"""A balancer of TCP on the lab's bridge, in front of API servers on nodes: HAProxy, as it stands in many data centres.

`CONFIGURATION` is what docs/kube-on-kube.md recommends; the tests of several API servers measure what it is worth.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from lab.cgroups import ControlGroup
from lab.host import Host
from lab.lab import Lab
from lab.requirements import BALANCER_TOOLS, LabError, check

Check = Literal["readyz", "connect"]
_SECONDS: Final = 10.0  # until it listens, or has ended

# An API server that ends says so at /readyz and is given no new connections, those that it has it closes itself. A node that
# is gone says nothing: only the kernel's own timers tell that of a connection, with data under way (tcp-ut) and without. Where
# it carried a member of etcd, the API servers of all nodes are slow for ten seconds: with `fall 2` none of them was left.
CONFIGURATION: Final = """\
global
  log stdout format raw daemon
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout check 3s
  retries 3
  option redispatch 1
  option srvtcpka
  srvtcpka-idle 5s
  srvtcpka-intvl 2s
  srvtcpka-cnt 3
listen api
  bind {address}:{port}
  balance roundrobin
{check}
"""
_CHECKS: Final[dict[Check, str]] = {
    "readyz": """\
  option httpchk GET /readyz
  default-server check check-ssl verify none inter 1s fall 5 rise 2 tcp-ut 10s""",
    "connect": """\
  default-server check inter 1s fall 2 rise 2 tcp-ut 10s""",
}


class Balancer:
    """Listens at `port` of the lab's gateway and leads to the same port of hosts; start/stop or context manager."""

    def __init__(self, lab: Lab, port: int, hosts: Sequence[Host], *, by: Check = "readyz") -> None:
        check(BALANCER_TOOLS)
        self.address, self.port = lab.gateway, port
        self._group = ControlGroup(f"{lab.slot.number}/balancer-{port}")
        self._folder = lab.slot.folder / f"balancer-{port}"
        self._folder.mkdir()
        servers = "".join(f"  server {h.name} {h.address}:{port}\n" for h in hosts)
        text = CONFIGURATION.format(address=self.address, port=port, check=_CHECKS[by]) + servers
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Balancer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _file(self) -> Path:
        return self._folder / "haproxy.cfg"

    @property
    def log(self) -> str:
        """What it said: which servers went and came."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Begin to listen; LabError with what it says when it does not."""
        with (self._folder / "log").open("wb") as log:
            argv = self._group.joining(["haproxy", "-db", "-f", str(self._file)])
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise LabError(f"The balancer does not start: {self.log[-500:]}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.address, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End it, and every connection through it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
