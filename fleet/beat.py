"""The Celery application of beat, which knows what it sends and nothing else: without the apps its process takes half the memory."""

from __future__ import annotations

import os

from celery import Celery
from django.conf import settings

from fleet.control import ticks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")

app = Celery("fleet", fixups=[])  # the one for Django would load the apps
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.broker_url = ticks.broker_url(settings.REDIS_URL)
app.conf.beat_schedule = ticks.schedule()
