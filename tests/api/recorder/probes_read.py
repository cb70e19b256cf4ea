"""Probes of reading, of addresses and of negotiation."""

from __future__ import annotations

from tests.api.recorder.probe import BASE, JSON, Probe, Step, address, create, get, rack

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_PARTIALS = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_NAMED = {"fieldSelector": "metadata.name=$n"}


def _labels(name: str, selector: str) -> Probe:
    """The selector over three objects: env=a size=5, env=b size=1, and one without labels."""
    made = [
        create(rack(name="$n-1", labels={"env": "a", "size": "5", "probe": "$n"})),
        create(rack(name="$n-2", labels={"env": "b", "size": "1", "probe": "$n"})),
        create(rack(name="$n-3", labels={"probe": "$n"})),
    ]
    ask = get(name="", accept=_PARTIALS, labelSelector=f"probe=$n,{selector}")
    return Probe(f"select {name}", (*made, ask))


def _list(name: str, **query: str) -> Probe:
    query = {"labelSelector": "probe=nothing", **query}  # objects of other probes are nobody's business
    return Probe(f"list {name}", (get(name="", accept=_PARTIALS, **query),))


READ = (
    Probe("get missing", (get(),)),
    Probe("get subresource of missing", (get(sub="status"),)),
    Probe("get unknown subresource", (create(rack()), get(sub="bogus"))),
    Probe("get status", (create(rack()), get(sub="status"))),
    Probe("get bad name", (get(name="Upper_Case"),)),
    Probe("get partial", (create(rack(labels={"a": "b"})), get(accept=_PARTIAL))),
    Probe("get table", (create(rack(labels={"a": "b"})), get(accept=_TABLE, includeObject="None"))),
    Probe("get not acceptable", (create(rack()), get(accept="text/html"))),
    Probe("get several acceptable", (create(rack()), get(accept="text/html,application/json"))),
    Probe("get anything", (create(rack()), get(accept="*/*"))),
    Probe("list table empty", (get(name="", accept=_TABLE, labelSelector="probe=nothing"),)),
    Probe("list empty", (get(name="", labelSelector="probe=nothing"),)),
    _labels("equal", "env=a"),
    _labels("equal double", "env==a"),
    _labels("not equal", "env!=a"),
    _labels("in", "env in (a,b)"),
    _labels("in spaces", " env  in ( a , b ) "),
    _labels("in empty", "env in ()"),
    _labels("notin", "env notin (a)"),
    _labels("notin empty", "env notin ()"),
    _labels("exists", "env"),
    _labels("absent", "!env"),
    _labels("absent space", "! env"),
    _labels("greater", "size>3"),
    _labels("less", "size<3"),
    _labels("several", "env=a,size"),
    _labels("equal nothing", "env="),
    _labels("not equal nothing", "env!="),
    _labels("key named in", "in"),
    _labels("value with spaces around", "env = a"),
    _labels("in without spaces", "env in(a)"),
    _list("selector unclosed", labelSelector="a in (b"),
    _list("selector without value", labelSelector="a in"),
    _list("selector two operators", labelSelector="a=b=c"),
    _list("selector bad key", labelSelector="a b"),
    _list("selector bad value", labelSelector="a=b!"),
    _list("selector bad prefix", labelSelector="A_/b=c"),
    _list("selector long value", labelSelector="a=" + "x" * 64),
    _list("selector not integer", labelSelector="a>b"),
    _list("selector comma", labelSelector=","),
    _list("selector trailing comma", labelSelector="probe=nothing,"),
    _list("field selector unknown", fieldSelector="spec.bogus=x"),
    _list("field selector garbage", fieldSelector="nonsense"),
    _list("field selector empty value", fieldSelector="spec.idc="),
    _list("limit garbage", limit="many"),
    _list("limit negative", limit="-1"),
    _list("version garbage", resourceVersion="abc"),
    _list("version negative", resourceVersion="-5"),
    _list("version zero", resourceVersion="0"),
    _list("continue garbage", limit="5", **{"continue": "garbage"}),
    _list("version match without version", resourceVersionMatch="Exact"),
    _list("version match unknown", resourceVersion="1", resourceVersionMatch="Sometimes"),
    _list("timeout garbage", timeoutSeconds="soon"),
    _list("watch list without match", watch="true", sendInitialEvents="true", timeoutSeconds="1"),
    _list("watch version garbage", watch="true", resourceVersion="abc", timeoutSeconds="1"),
    Probe("list by field", (
        create(rack({"ip": "1", "idc": "$n"})),
        get(name="", accept=_PARTIALS, fieldSelector="spec.idc=$n"),
        get(name="", accept=_PARTIALS, fieldSelector="metadata.name=$n,spec.idc!=$n"),
        get(name="", accept=_PARTIALS, fieldSelector="metadata.name=$n,spec.idc!=other"),
        get(name="", accept=_PARTIALS, fieldSelector="metadata.name==$n,status.phase="),
    )),
    Probe("list table", (create(rack()), get(name="", accept=_TABLE, **_NAMED))),
    Probe("list table whole objects", (create(rack()), get(name="", accept=_TABLE, includeObject="Object", **_NAMED))),
    Probe("list table bad include", (get(name="", accept=_TABLE, includeObject="Half", **_NAMED),)),
    Probe("list not acceptable", (get(name="", accept="text/html"),)),
    Probe("list namespaced", (Step("GET", f"{BASE}/namespaces/default/racks", "", {"Accept": JSON}),)),
    Probe("list unknown kind", (get("nothings", ""),)),
    Probe("list trailing slash", (Step("GET", f"{BASE}/racks/?labelSelector=probe=nothing", "", {"Accept": JSON}),)),
    Probe("method POST on object", (create(rack()), Step("POST", address("racks", "$n"), "{}", {"Content-Type": JSON}))),
    Probe("method PUT on collection", (Step("PUT", address("racks"), "{}", {"Content-Type": JSON}),)),
    Probe("method PATCH on collection", (Step("PATCH", address("racks"), "{}", {"Content-Type": JSON}),)),
    Probe("method DELETE on status", (create(rack()), Step("DELETE", address("racks", "$n", "status")))),
    Probe("method unknown", (Step("BREW", address("racks")),)),
)  # fmt: skip
