"""Bring the database of `make up` to where Fleet can start: migrations, admin user, kubeconfig, simulated fleet. Safe to run again."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    """Run once before the processes start."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--machines", type=int, required=True)
    options = parser.parse_args()

    import django

    django.setup()
    _migrate()
    admin = _admin(os.environ["FLEET_ADMIN_PASSWORD"])
    _kubeconfig(admin, options)
    if options.machines:
        from simulator.demo import seed_demo

        seed_demo(clusters=options.clusters, machines=options.machines)
    return 0


def _migrate() -> None:
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", interactive=False, verbosity=0)


def _admin(password: str):  # type: ignore[no-untyped-def]
    from django.contrib.auth import get_user_model

    from fleet.api.models import Role, RoleBinding

    user, made = get_user_model().objects.get_or_create(
        username="admin", defaults={"is_staff": True, "is_superuser": True}
    )
    if made:
        user.set_password(password)
        user.save()
    RoleBinding.objects.get_or_create(user=user, role=Role.ADMIN, cluster="")
    return user


def _kubeconfig(admin, options: argparse.Namespace) -> None:  # type: ignore[no-untyped-def]
    import yaml

    from fleet.api.authentication import create_token, token_is_good
    from fleet.dev.certificates import write_kubeconfig

    token = ""
    if options.kubeconfig.exists():
        token = yaml.safe_load(options.kubeconfig.read_text())["users"][0]["user"]["token"]
    if not token or not token_is_good(token):
        token = create_token(admin, "kubeconfig of make up", days=365)
    write_kubeconfig(options.kubeconfig, server=options.server, ca=options.ca, token=token)


if __name__ == "__main__":
    sys.exit(main())
