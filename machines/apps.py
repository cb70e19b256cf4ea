"""Django's entry for `machines`."""

from django.apps import AppConfig


class MachinesConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "machines"
    label = "machines"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from machines.storages import storages
        from fleet.api.storage import register_storage
        from fleet.control.kinds import register

        for storage in storages():
            register(storage.kind)
            register_storage(storage)
