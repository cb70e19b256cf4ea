"""Django's entry for `fleet.api`."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.api"
    label = "fleet_api"
    default_auto_field = "django.db.models.BigAutoField"
