"""Django's entry for `fleet.console`."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.console"
    label = "console"
    default_auto_field = "django.db.models.BigAutoField"
