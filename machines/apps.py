"""Django's entry for `machines`."""

from django.apps import AppConfig


class MachinesConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "machines"
    label = "machines"
    default_auto_field = "django.db.models.BigAutoField"
