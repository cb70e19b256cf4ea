"""Django's entry for `fleet.events`."""

from django.apps import AppConfig


class EventsConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.events"
    label = "events"
    default_auto_field = "django.db.models.BigAutoField"
