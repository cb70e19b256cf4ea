"""The port to controllers by Redfish: sushy, in threads of its own, with its retries off and its addresses kept to the controller's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
import sushy
from requests.adapters import HTTPAdapter
from sushy.auth import BasicAuth
from sushy.connector import Connector
from sushy.exceptions import AccessError, SushyError
from sushy.exceptions import ConnectionError as NotReached

from machines.bmc import BmcAccess, BmcError, Health, Part, PowerState

T = TypeVar("T")
CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 8.0
HEALTH_SECONDS: Final = 40.0  # some twenty requests, each a second at slow controllers
_THREADS: Final = 32
_STATES: Final[dict[str, PowerState]] = {"On": "On", "Off": "Off", "PoweringOn": "Changing", "PoweringOff": "Changing"}
_BAD: Final = ("Critical",)


class RedfishBmcs:
    """Controllers that speak Redfish. `refusal`: why an address may not be connected to, or None."""

    def __init__(self, refusal: Callable[[str], str | None]) -> None:
        self._refusal = refusal
        self._threads = ThreadPoolExecutor(_THREADS, "redfish")

    def bmc(self, access: BmcAccess) -> Redfish:
        """Nothing is connected to yet."""
        return Redfish(access, self._refusal, self._threads)

    async def close(self) -> None:
        """Requests under way end by their own limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Redfish:
    """One controller; each call is a connection of its own, as controllers bear few."""

    def __init__(self, access: BmcAccess, refusal: Callable[[str], str | None], threads: ThreadPoolExecutor) -> None:
        self._access, self._refusal, self._threads = access, refusal, threads

    async def power_state(self) -> PowerState:
        return await self._run(lambda system: _power(system.json), ANSWER_SECONDS)

    async def power_off(self) -> None:
        await self._run(lambda system: system.reset_system(sushy.ResetType.FORCE_OFF), ANSWER_SECONDS, acts=True)

    async def power_on(self) -> None:
        await self._run(lambda system: system.reset_system(sushy.ResetType.ON), ANSWER_SECONDS, acts=True)

    async def health(self) -> Health:
        return await self._run(_health, HEALTH_SECONDS)

    async def _run(self, ask: Callable[[Any], T], seconds: float, *, acts: bool = False) -> T:
        why = self._refusal(self._access.address)
        if why is not None:
            raise BmcError("BmcNotAllowed", why)
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._asked, ask, acts)
        try:
            return await asyncio.wait_for(asked, seconds * 2)
        except TimeoutError:
            raise BmcError("BmcTimeout", f"{self._access.address} did not answer in time.", sent=acts) from None

    def _asked(self, ask: Callable[[Any], T], acts: bool) -> T:
        """In a thread. What a controller answers is not to be trusted: whatever breaks over it is its error."""
        reached = False
        connector = self._connector()
        try:
            service = sushy.Sushy(
                self._access.address, auth=BasicAuth(self._access.username, self._access.password), connector=connector
            )
            system = service.get_system()
            _right_one(system.json, self._access)
            reached = True
            return ask(system)
        except BmcError:
            raise
        except AccessError:
            raise BmcError("BmcAccessDenied", f"{self._access.address} refuses the credential.") from None
        except NotReached as error:
            reason = "BmcCertificate" if "certificate" in str(error).lower() else "BmcUnreachable"
            raise BmcError(reason, f"{self._access.address}: {_short(error)}", sent=acts and reached) from None
        except SushyError as error:
            raise BmcError("BmcRefused", f"{self._access.address}: {_short(error)}", sent=acts and reached) from None
        except Exception as error:
            text = f"{self._access.address} gave an answer that is none: {_short(error)}"
            raise BmcError("BmcGarbled", text, sent=acts and reached) from None
        finally:
            connector.close()

    def _connector(self) -> Connector:
        """One try a request: a reset whose answer is lost is never sent again without a look."""
        where = self._access
        host = f"[{where.address}]" if ":" in where.address else where.address
        base = f"https://{host}:{where.port}"
        connector = Connector(
            base, verify=not where.insecure, server_side_retries=1, server_side_retries_delay=1,
            default_request_timeout=ANSWER_SECONDS, connect_timeout=CONNECT_SECONDS,
        )  # fmt: skip
        session: requests.Session = connector._session
        session.trust_env = False  # no proxy, no .netrc
        only = _OnlyThere(urlsplit(base).netloc, where.ca if not where.insecure else "")
        session.mount("https://", only)
        session.mount("http://", only)
        return connector


class _OnlyThere(HTTPAdapter):
    """Goes to one server over TLS and nowhere else, whatever that server's answers say."""

    def __init__(self, netloc: str, ca: str) -> None:
        self._netloc = netloc
        self._context = ssl.create_default_context(cadata=ca) if ca else None
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        if self._context is None:  # else the declared CA alone counts, not those that this host trusts
            super().cert_verify(conn, url, verify, cert)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        parts = urlsplit(request.url or "")
        if parts.scheme != "https" or parts.netloc != self._netloc:
            raise requests.exceptions.InvalidURL(f"the controller sends Fleet elsewhere: {parts.netloc}")
        return super().send(request, *args, **kwargs)


def _right_one(document: Any, access: BmcAccess) -> None:
    """The controller must be that of this machine: what is switched off by mistake is somebody's."""
    seen = str(document.get("SerialNumber") or "").strip()
    if access.serial_number and seen and seen != access.serial_number.strip():
        text = f"The controller at {access.address} is that of serial number {seen[:80]}, not {access.serial_number}."
        raise BmcError("IdentityMismatch", text)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _power(document: Any) -> PowerState:
    said = document.get("PowerState") if isinstance(document, dict) else None
    if said not in _STATES:
        raise BmcError("BmcGarbled", f"The controller says of the power: {str(said)[:60]!r}.")
    return _STATES[str(said)]


def _health(system: Any) -> Health:
    """Parts by sort. A controller that lacks a resource does not say how those parts are."""
    parts = {
        "Drives": _part(_drives(system)),
        "Memory": _part([("Memory", system.json.get("MemorySummary", {}).get("Status"))]),
        "Network": _part(_ports(system)),
    }
    chassis = [c.json for c in _members(lambda: system.chassis)]
    parts["Supply"] = _part(_listed(system, chassis, "Power", "PowerSupplies"))
    heat = [*_listed(system, chassis, "Thermal", "Fans"), *_listed(system, chassis, "Thermal", "Temperatures")]
    board = [("Processors", system.json.get("ProcessorSummary", {}).get("Status")), *heat]
    if not any(p.well is False for p in parts.values()):  # many controllers put the worst of all parts there
        board.append(("System", system.json.get("Status")))
    parts["Board"] = _part(board)
    return Health(_power(system.json), parts)


def _drives(system: Any) -> list[tuple[str, Any]]:
    storages = _members(lambda: system.storage.get_members())
    return [(_name(d), d.json.get("Status")) for s in storages for d in _members(lambda s=s: s.drives)]  # type: ignore[misc]


def _ports(system: Any) -> list[tuple[str, Any]]:
    return [(_name(e), e.json.get("Status")) for e in _members(lambda: system.ethernet_interfaces.get_members())]


def _listed(system: Any, chassis: Iterable[Any], resource: str, items: str) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for each in chassis:
        path = each.get(resource, {}).get("@odata.id")
        found = _members(lambda path=path: [system._conn.get(path).json()]) if path else []  # type: ignore[misc]
        out += [(str(i.get("Name", items)), i.get("Status")) for f in found for i in f.get(items, ())]
    return out


def _members(ask: Callable[[], Iterable[Any]]) -> list[Any]:
    """What a controller does not have it answers with an error; that is no news of the parts."""
    try:
        return list(ask())
    except NotReached:
        raise
    except SushyError:
        return []


def _name(resource: Any) -> str:
    return str(resource.json.get("Name") or resource.json.get("Id") or "")


def _part(found: Iterable[tuple[str, Any]]) -> Part:
    said = [
        (n, s) for n, s in found if isinstance(s, dict) and s.get("State", "Enabled") != "Absent" and s.get("Health")
    ]
    bad = [n for n, s in said if s["Health"] in _BAD]
    if bad:
        return Part(False, f"Critical: {', '.join(n[:60] for n in bad[:5])}.")
    warned = [n for n, s in said if s["Health"] != "OK"]
    return Part(True if said else None, f"Warning: {', '.join(n[:60] for n in warned[:5])}." if warned else "")
