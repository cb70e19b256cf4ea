"""Django's entry for `recovery`."""

from django.apps import AppConfig


class RecoveryConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "recovery"
    label = "recovery"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from fleet.api.storage import register_storage
        from fleet.control.kinds import register
        from recovery.storages import storages

        for storage in storages():
            register(storage.kind)
            register_storage(storage)
