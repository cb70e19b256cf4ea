"""Django's entry for `simulator`."""

from django.apps import AppConfig


class SimulatorConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "simulator"
    label = "simulator"
    default_auto_field = "django.db.models.BigAutoField"
