"""Provider Imported: a cluster that others made. Fleet goes there by a kubeconfig, looks, and never touches the control plane.

The same pass looks at clusters of other providers that have no components of Fleet's: they differ in their way only.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from django.db import transaction

from clusters import access, models
from clusters.cases import Case, write
from clusters.kube import Kube, KubeError, KubeUnreachable
from clusters.planning import certificates, held
from clusters.schema_cluster import IMPORTED, provider_of
from clusters.status import Part, Told
from clusters.ways import Way, networks_of, register_way
from fleet.api.credentials import check_use, unseal
from fleet.api.kubeconfig import KubeconfigError, parse
from fleet.api.models import Credential
from fleet.control import clock
from fleet.control.conditions import Condition, Status
from fleet.control.endpoint import Endpoint
from fleet.control.errors import PermanentError, ReconcileError, TemporaryError
from fleet.control.kinds import Json
from fleet.control.threads import in_thread
from fleet.control.work import Claim, Settled, set_back
from fleet.events.publish import WARNING

REST_SECONDS: Final = 30.0


def read(case: Case) -> Endpoint:
    """Its kubeconfig, opened in a worker. PermanentError with a sentence when it may or can not be used."""
    name = str(case.spec["kubeconfigCredential"])
    row = Credential.objects.filter(name=name).first()
    if row is None:
        raise PermanentError("NoCredential", f"there is no Credential {name}")
    if row.spec.get("type") != "kubeconfig":
        raise PermanentError("NoCredential", f"Credential {name} is of type {row.spec.get('type')}, not kubeconfig")
    try:
        found = parse(unseal(name, bytes(row.sealed)).get("kubeconfig", ""))
    except KubeconfigError as error:
        raise PermanentError("KubeconfigRefused", f"the kubeconfig of Credential {name} {error}") from None
    for address in _addresses(found.host):
        check_use(name, row.spec, cluster=case.name, address=address)
    return found


def _addresses(host: str) -> Sequence[str]:
    """Those that the host stands for now."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as error:
        raise TemporaryError("NotAnswering", f"the name {host} cannot be resolved: {error.strerror}") from None


@dataclass(slots=True)
class ImportedPass:
    """One look at a cluster whose control plane others run."""

    claim: Claim
    me: int
    case: Case
    way: Way

    async def run(self) -> Settled:
        """To its end; how the lease ends."""
        case, now = self.case, clock.now()
        if case.deleted:
            return Settled(self.claim.object_id, self.claim.epoch, REST_SECONDS)
        try:
            endpoint = await in_thread(lambda: self.way(case))
            version = await self._ask(endpoint)
        except ReconcileError as error:
            part = _part(case, (error.reason, error.message), {}, now)
            await in_thread(lambda: write(self.claim, self.me, part))
            return set_back(self.claim, most=60)
        part = _part(case, None, {"endpoint": endpoint.server, "kubernetesVersion": version}, now, endpoint)

        def record() -> None:
            with transaction.atomic():
                write(self.claim, self.me, part)
                access.store_if_new(case.id, endpoint)

        await in_thread(record)
        return Settled(self.claim.object_id, self.claim.epoch, REST_SECONDS)

    async def _ask(self, endpoint: Endpoint) -> str:
        """Its version, as the identity of the kubeconfig gets it."""
        try:
            async with Kube(endpoint, networks=networks_of(provider_of(self.case.spec))) as kube:
                await asyncio.wait_for(kube.get("/api/v1/nodes", limit="1"), 15)
                return str((await kube.get("/version"))["gitVersion"]).removeprefix("v")
        except KubeError as error:
            if error.code in (401, 403):
                raise PermanentError(
                    "Refused", f"the API server refuses the identity of the kubeconfig: {error.message}"
                ) from None
            raise TemporaryError("NotReady", f"the API server answers {error.code}: {error.message}") from None
        except (KubeUnreachable, TimeoutError) as error:
            raise TemporaryError(
                "NotAnswering", f"the API server does not answer: {error or 'no answer within 15 s'}"
            ) from None


register_way(IMPORTED, read)


def _part(
    case: Case, trouble: tuple[str, str] | None, fields: Json, now: datetime, found: Endpoint | None = None
) -> Part:
    reason, message = trouble or ("Ready", "the API server answers")
    ok: Status = "False" if trouble else "True"
    conditions = [
        Condition("APIServerReachable", ok, reason, message),
        Condition("Ready", ok, reason, message),
        Condition("Reconciling", "False", "AtRest"),
        Condition(
            "Stalled", "True" if trouble else "False", reason if trouble else "NotStalled", message if trouble else ""
        ),
        held(case),
        *_identity(found, now),
    ]
    before = case.condition("APIServerReachable").get("status")
    told: tuple[Told, ...] = ()
    if before != ok and (trouble or before is not None):
        told = (Told("lost" if trouble else "reached", reason, message, WARNING if trouble else 0),)
    phase = models.RUNNING
    if trouble:
        phase = models.DEGRADED if case.status.get("kubernetesVersion") else models.PROVISIONING
    return Part({**fields, "phase": phase, "observedGeneration": case.generation}, conditions, told)


def _identity(found: Endpoint | None, now: datetime) -> list[Condition]:
    """When the client certificate of the kubeconfig ends: others made it, so others must renew it."""
    if found is None or not found.certificate:
        return []
    try:
        end = x509.load_pem_x509_certificate(found.certificate.encode()).not_valid_after_utc
    except ValueError as error:
        return [
            Condition(
                "CertificatesValid",
                "False",
                "Unreadable",
                f"the client certificate of the kubeconfig cannot be read: {error}",
            )
        ]
    text = f"the client certificate of the kubeconfig ends at {end:%Y-%m-%d %H:%M} UTC"
    return [certificates(end, now, text, text)]
