"""Django's entry for `fleet.events`."""

from django.apps import AppConfig


class EventsConfig(AppConfig):
    """Registers what has to be done from time to time."""

    name = "fleet.events"
    label = "events"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Chores of the log's doors and readers."""
        from fleet.control.operators import Chore, register_chore
        from fleet.events import consumers, ingest, letters

        register_chore(Chore("events-wanted", 2.0, lambda seat: letters.deliver_again(seat.conn, unknown=False)))
        register_chore(Chore("events-unknown", 30.0, lambda seat: letters.deliver_again(seat.conn)))
        register_chore(Chore("events-seen", 60.0, lambda seat: ingest.forget_seen(seat.conn)))
        register_chore(Chore("events-risk", 60.0, lambda seat: consumers.count_at_risk(seat.conn)))
