"""Django's entry for `machines`."""

from django.apps import AppConfig


class MachinesConfig(AppConfig):
    """Registers the app's models and kinds."""

    name = "machines"
    label = "machines"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Models are loaded: kinds and storages can be known."""
        from clusters.schema_gates import reserve_types
        from fleet.api.storage import register_storage
        from fleet.api.subresources import register_subresource
        from fleet.control.kinds import register
        from machines.batches.storage import list_of
        from machines.conditions import TYPES
        from machines.evidence import evidence_shown
        from machines.reported import conditions_of, report_conditions
        from machines.storages import storages
        from machines.why import plan_of, why_of

        reserve_types(TYPES)
        for storage in storages():
            register(storage.kind)
            register_storage(storage)
        register_subresource("machines", "why", why_of)
        register_subresource("machines", "plan", plan_of)
        register_subresource("machines", "conditions", conditions_of, report_conditions)
        register_subresource("operations", "evidence", evidence_shown)
        register_subresource("operationbatches", "targets", list_of)
