"""Django's entry for `clusters`."""

from django.apps import AppConfig


class ClustersConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "clusters"
    label = "clusters"
    default_auto_field = "django.db.models.BigAutoField"
