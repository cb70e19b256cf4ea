"""Django's entry for `simulator`."""

from django.apps import AppConfig


class SimulatorConfig(AppConfig):
    """Registers the driver `simulated`."""

    name = "simulator"
    label = "simulator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """One adapter a worker process, with a connection of its own."""
        from fleet.control.db import connect
        from machines.drivers import register_driver
        from simulator.hosts import SimulatedHosts

        register_driver("simulated", lambda: SimulatedHosts(connect))
