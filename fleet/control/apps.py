"""Django's entry for `fleet.control`."""

from django.apps import AppConfig


class ControlConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.control"
    label = "control"
    default_auto_field = "django.db.models.BigAutoField"
