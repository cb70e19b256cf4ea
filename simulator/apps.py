"""Django's entry for `simulator`."""

from django.apps import AppConfig


class SimulatorConfig(AppConfig):
    """Registers the driver and the provider `simulated`."""

    name = "simulator"
    label = "simulator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """One adapter a worker process, with a connection of its own."""
        from clusters.schema_cluster import SIMULATED
        from clusters.ways import register_way
        from fleet.control import clock
        from fleet.control.db import connect
        from machines.controllers import register_bmcs
        from machines.drivers import register_driver
        from machines.provisioners import register_provisioners
        from simulator.bmc import SimulatedBmcs
        from simulator.hosts import SimulatedHosts
        from simulator.provisioner import SimulatedProvisioners
        from simulator.ways import way

        register_driver("simulated", lambda: SimulatedHosts(connect, clock.unix))
        register_bmcs("simulated", lambda: SimulatedBmcs(connect, clock.unix))
        register_provisioners("simulated", lambda: SimulatedProvisioners(connect, clock.unix))
        register_way(SIMULATED, way)
