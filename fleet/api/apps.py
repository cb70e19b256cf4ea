"""Django's entry for `fleet.api`."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "fleet.api"
    label = "fleet_api"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from fleet.api.credentials import CredentialStorage
        from fleet.api.kinds import CREDENTIAL_KIND
        from fleet.api.safety_kinds import register_safety_kinds
        from fleet.api.storage import register_storage
        from fleet.api.subscription_kinds import register_subscriptions
        from fleet.control.kinds import register

        register(CREDENTIAL_KIND)
        register_storage(CredentialStorage())
        register_safety_kinds()
        register_subscriptions()
