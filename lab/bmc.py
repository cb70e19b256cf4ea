"""A controller (BMC) beside a host of the lab, spoken to by Redfish over TLS: what it switches is the host's real power.

It speaks what Redfish clients ask of a system, a chassis and its parts; `break_part` makes a part critical.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.host import Host

Json = dict[str, Any]
USER: Final = "admin"
PASSWORD: Final = "of-the-lab"
ROOT: Final = "/redfish/v1"
SYSTEM: Final = f"{ROOT}/Systems/1"
CHASSIS: Final = f"{ROOT}/Chassis/1"
PARTS: Final = ("Drives", "Memory", "Board", "Network", "Supply")


class Controller:
    """Serves on `address`, at a port of its own; start/stop or context manager. `resets` are those that it was asked for."""

    def __init__(self, host: Host, address: str, *, serial_number: str = "") -> None:
        self.host, self.address = host, address
        self.serial_number = serial_number
        self.resets: list[str] = []
        self._broken: set[str] = set()
        self._silent = False
        self.certificate, key = _certificate(address)
        folder = host.folder / "bmc"
        folder.mkdir(exist_ok=True)
        (folder / "tls.pem").write_text(key + self.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.pem")
        self._server = _Server((address, 0), self)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=f"bmc-{host.name}", daemon=True
        )

    def __enter__(self) -> Controller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def spec(self) -> Json:
        """`spec.bmc` of the host's Machine, without the credential."""
        return {"address": self.address, "port": self.port, "ca": self.certificate}

    def break_part(self, part: str) -> None:
        """From now on it calls that part (one of PARTS) critical."""
        self._broken.add(part)

    def mend_part(self, part: str) -> None:
        """The part is well again."""
        self._broken.discard(part)

    def silence(self, silent: bool = True) -> None:
        """It answers nothing but errors, as a controller that starts anew."""
        self._silent = silent

    def answer(self, path: str) -> Json | None:
        """The resource at a path; None = there is none."""
        if self._silent:
            return None
        make = _RESOURCES.get(path.rstrip("/"))
        return {"@odata.id": path.rstrip("/"), **make(self)} if make is not None else None

    def reset(self, type_: str) -> bool:
        """Whether it does such resets; it answers before the host is up or down."""
        if type_ not in ("On", "ForceOff") or self._silent:
            return False
        self.resets.append(type_)
        if type_ == "On":
            self.host.power_on()
        else:
            self.host.power_cut()
        return True

    def status(self, part: str) -> Json:
        """Its word about a part."""
        return {"State": "Enabled", "Health": "Critical" if part in self._broken else "OK"}


def _link(path: str) -> Json:
    return {"@odata.id": path}


def _collection(name: str, *members: str) -> Json:
    return {"Name": name, "Members": [_link(m) for m in members], "Members@odata.count": len(members)}


def _system(bmc: Controller) -> Json:
    return {
        "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "Id": "1", "Name": bmc.host.name, "SerialNumber": bmc.serial_number,
        "PowerState": "On" if bmc.host.is_on() else "Off", "Status": bmc.status("Board"), "ProcessorSummary": {"Count": 2, "Status": bmc.status("Board")},
        "MemorySummary": {"TotalSystemMemoryGiB": 8, "Status": bmc.status("Memory")}, "Storage": _link(f"{SYSTEM}/Storage"),
        "EthernetInterfaces": _link(f"{SYSTEM}/EthernetInterfaces"), "Links": {"Chassis": [_link(CHASSIS)], "ManagedBy": []},
        "Actions": {"#ComputerSystem.Reset": {"target": f"{SYSTEM}/Actions/ComputerSystem.Reset", "ResetType@Redfish.AllowableValues": ["On", "ForceOff"]}},
    }  # fmt: skip


_RESOURCES: Final[dict[str, Callable[[Controller], Json]]] = {
    ROOT: lambda b: {"Id": "RootService", "Name": "lab", "RedfishVersion": "1.13.0", "Systems": _link(f"{ROOT}/Systems"), "Chassis": _link(f"{ROOT}/Chassis")},
    f"{ROOT}/Systems": lambda b: _collection("Systems", SYSTEM),
    SYSTEM: _system,
    f"{SYSTEM}/Storage": lambda b: _collection("Storage", f"{SYSTEM}/Storage/1"),
    f"{SYSTEM}/Storage/1": lambda b: {"Id": "1", "Name": "Disks", "Drives": [_link(f"{SYSTEM}/Storage/1/Drives/1")]},
    f"{SYSTEM}/Storage/1/Drives/1": lambda b: {"Id": "1", "Name": "Disk 1", "Status": b.status("Drives")},
    f"{SYSTEM}/EthernetInterfaces": lambda b: _collection("Ports", f"{SYSTEM}/EthernetInterfaces/1"),
    f"{SYSTEM}/EthernetInterfaces/1": lambda b: {"Id": "1", "Name": "Port 1", "Status": b.status("Network")},
    f"{ROOT}/Chassis": lambda b: _collection("Chassis", CHASSIS),
    CHASSIS: lambda b: {"Id": "1", "Name": "Chassis", "ChassisType": "RackMount", "Status": {"State": "Enabled", "Health": "OK"}, "Power": _link(f"{CHASSIS}/Power"), "Thermal": _link(f"{CHASSIS}/Thermal")},
    f"{CHASSIS}/Power": lambda b: {"Id": "Power", "Name": "Power", "PowerSupplies": [{"MemberId": "0", "Name": "Supply 1", "Status": b.status("Supply")}]},
    f"{CHASSIS}/Thermal": lambda b: {"Id": "Thermal", "Name": "Thermal", "Fans": [{"MemberId": "0", "Name": "Fan 1", "Status": b.status("Board")}], "Temperatures": []},
}  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], bmc: Controller) -> None:
        super().__init__(address, _Handler)
        self.bmc = bmc

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not like the certificate goes away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if not self._may():
            return
        found = self.server.bmc.answer(self.path)
        self._say(200, found) if found is not None else self._say(503 if self.server.bmc._silent else 404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not self._may():
            return
        if self.path != f"{SYSTEM}/Actions/ComputerSystem.Reset":
            self._say(404, {})
            return
        done = self.server.bmc.reset(str(json.loads(body or b"{}").get("ResetType")))
        self._say(204 if done else 400, {})

    def _may(self) -> bool:
        word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.path.rstrip("/") == ROOT or self.headers.get("Authorization") == f"Basic {word}":
            return True
        self._say(401, {})
        return False

    def _say(self, status: int, document: Json) -> None:
        if status >= 400:
            document = {"error": {"code": "Base.1.0.GeneralError", "message": f"HTTP {status}"}}
        data = b"" if status == 204 else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """No log: `Controller.resets` says what was asked for."""


def _certificate(address: str) -> tuple[str, str]:
    """A certificate for that address that signs itself, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab controller")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()
