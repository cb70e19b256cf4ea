"""Django's entry for `fleet.safety`."""

from django.apps import AppConfig


class SafetyConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.safety"
    label = "safety"
    default_auto_field = "django.db.models.BigAutoField"
