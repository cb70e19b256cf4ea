"""`python -m fleet.cli.kubeconfig CLUSTER`: the admin's kubeconfig of a cluster that the Fleet of this checkout made, for evaluation.

Who can read `.fleet/` holds the keys already. Kubeconfigs for people are another matter: they would name who they are for.
"""

from __future__ import annotations

import base64
import sys

import orjson

from fleet.cli.environment import CliError, start_django
from fleet.control.endpoint import Endpoint


def main() -> int:
    """Print it."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m fleet.cli.kubeconfig CLUSTER\n")
        return 2
    try:
        start_django()
    except CliError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    from clusters.access import endpoint_named

    found = endpoint_named(sys.argv[1])
    if found is None:
        sys.stderr.write(f"No way to a cluster {sys.argv[1]} is known.\n")
        return 1
    sys.stdout.write(kubeconfig(sys.argv[1], found))
    return 0


def kubeconfig(name: str, endpoint: Endpoint) -> str:
    """As kubectl reads it; JSON is YAML."""
    pairs = (("client-certificate-data", endpoint.certificate), ("client-key-data", endpoint.key))
    user = {field: _base64(text) for field, text in pairs if text} | (
        {"token": endpoint.token} if endpoint.token else {}
    )
    cluster = {"server": endpoint.server} | (
        {"certificate-authority-data": _base64(endpoint.ca)} if endpoint.ca else {}
    )
    made = {
        "apiVersion": "v1", "kind": "Config", "current-context": name, "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": "admin", "user": user}], "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
    }  # fmt: skip
    return orjson.dumps(made, option=orjson.OPT_INDENT_2).decode() + "\n"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


if __name__ == "__main__":
    sys.exit(main())
