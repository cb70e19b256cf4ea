"""Django's entry for `clusters`."""

from django.apps import AppConfig


class ClustersConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "clusters"
    label = "clusters"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from clusters.storage import storages
        from fleet.api.storage import register_storage
        from fleet.control.kinds import register

        for storage in storages():
            register(storage.kind)
            register_storage(storage)
