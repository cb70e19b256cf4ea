"""The peer of H6: a ModelSerializer with Django REST framework's own pagination, on the same tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode


def fetcher(paging: str, size: int) -> Callable[[Any], bytes]:
    """A function that answers one wish the way a DRF view does. `paging`: offset or cursor."""
    from django.test import RequestFactory
    from rest_framework.renderers import JSONRenderer
    from rest_framework.request import Request

    from machines.models import Machine, MachineState

    machine_serializer, paginators = _serializer(), _paginators(size)

    def fetch(wish: Any) -> bytes:
        queryset = Machine.objects.order_by("name")
        if wish.cluster is not None:
            queryset = queryset.filter(cluster_id=wish.cluster)
        if wish.label is not None:
            queryset = queryset.filter(labels__contains={wish.label[0]: wish.label[1]})
        request = Request(RequestFactory().get("/machines", _query(paging, wish), headers={"host": "localhost"}))
        paginator = paginators[paging]()
        page = paginator.paginate_queryset(queryset, request)
        states = MachineState.objects.in_bulk([m.pk for m in page])  # one query for all: kinder than a join per row
        data = machine_serializer(page, many=True, context={"states": states}).data
        return bytes(JSONRenderer().render(paginator.get_paginated_response(data).data))

    return fetch


def _query(paging: str, wish: Any) -> dict[str, str]:
    if paging == "offset":
        number = int(wish.after.rpartition("-")[2])
        return {"offset": str(0 if wish.cluster is not None else number * 4 // 5)}
    return {"cursor": b64encode(urlencode({"p": wish.after}).encode()).decode()}


def _paginators(size: int) -> dict[str, Any]:
    from rest_framework import pagination

    class Offset(pagination.LimitOffsetPagination):
        default_limit = size

    class Cursor(pagination.CursorPagination):
        page_size, ordering = size, "name"

    return {"offset": Offset, "cursor": Cursor}


def _serializer() -> Any:
    from rest_framework import serializers

    from machines.models import Machine, MachineState

    class StateSerializer(serializers.ModelSerializer[MachineState]):
        class Meta:
            model = MachineState
            fields = (
                "rv",
                "phase",
                "generation",
                "observed_generation",
                "desired_hash",
                "cond_true",
                "cond_false",
                "paused",
            )

    class MachineSerializer(serializers.ModelSerializer[Machine]):
        status = serializers.SerializerMethodField()

        class Meta:
            model = Machine
            fields = (
                "id",
                "uid",
                "name",
                "labels",
                "annotations",
                "finalizers",
                "spec",
                "created_at",
                "deleted_at",
                "status",
            )

        def get_status(self, machine: Machine) -> Any:
            return StateSerializer(self.context["states"][machine.pk]).data

    return MachineSerializer
