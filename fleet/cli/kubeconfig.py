"""`python -m fleet.cli.kubeconfig CLUSTER`: the admin's kubeconfig of a cluster that the Fleet of this checkout made, for evaluation.

Who can read `.fleet/` holds the keys already. Kubeconfigs for people are another matter: they would name who they are for.
"""

from __future__ import annotations

import sys

from fleet.cli.environment import CliError, start_django


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
    sys.stdout.write(found.kubeconfig(sys.argv[1], "admin"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
