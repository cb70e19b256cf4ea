"""From layers and pins to one set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.control.digests import hash64
from fleet.control.errors import PermanentError
from fleet.control.kinds import Json
from fleet.control.render import render
from machines.resolve import find_version, resolve, version_key, wanted_versions
from tests.machines.sets import catalog, config, version, wish


def test_the_stronger_layer_wins_and_the_machine_pins() -> None:
    versions, layer_of = wanted_versions(
        wish({"c": "3"}, cluster={"a": "1", "b": "1", "c": "1"}, klass={"b": "2", "c": "2"})
    )
    assert versions == {"a": "1", "b": "2", "c": "3"}
    assert layer_of == {"a": "cluster", "b": "class", "c": "machine"}


def test_a_disabled_package_is_not_wanted_by_any_layer() -> None:
    versions, _ = wanted_versions(wish({"a": "1"}, cluster={"b": "1"}, disabledPackages=["a", "b"]))
    assert versions == {}


@pytest.mark.parametrize(
    ("wanted", "known", "found"),
    [
        pytest.param("1.0", ["1.0", "1"], "1.0", id="a string means itself"),
        pytest.param(1, ["1.0", "1.1"], "1.0", id="kubectl made 1 of 1.0"),
        pytest.param(1.1, ["1.1", "1.2"], "1.1", id="a number equals one"),
        pytest.param(1.1, ["1.10", "1.2"], "1.10", id="kubectl made 1.1 of 1.10"),
        pytest.param(2, ["2", "1.0"], "2", id="a whole number"),
    ],
)
def test_a_version_names_one_package_version(wanted: object, known: list[str], found: str) -> None:
    assert find_version("p", wanted, [version("p", k) for k in known]).version == found


@pytest.mark.parametrize(
    ("wanted", "known", "reason", "words"),
    [
        pytest.param("1.0", ["1"], "VersionUnknown", "with version 1.0", id="a string is never read as a number"),
        pytest.param(1.1, ["1.1", "1.10"], "VersionAmbiguous", "1.1 or 1.10?", id="two are equal"),
        pytest.param(3, ["1.0", "3.0-rc"], "VersionUnknown", "in quotes", id="none is equal"),
        pytest.param("1.0", [], "VersionUnknown", "no MachinePackageVersion of p", id="none is known"),
    ],
)
def test_a_version_that_names_none_or_several_is_a_sentence(
    wanted: object, known: list[str], reason: str, words: str
) -> None:
    with pytest.raises(PermanentError) as caught:
        find_version("p", wanted, [version("p", k) for k in known])
    assert caught.value.reason == reason
    assert words in caught.value.message


def test_what_is_required_is_installed_first() -> None:
    known = catalog(version("a", "1", requires=["b"]), version("b", "1", requires=["c>=2"]), version("c", "2"))
    found = resolve(wish({"a": "1", "b": "1", "c": "2"}), known)
    assert [p["name"] for p in found.body["packages"]] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("requires", "wanted", "reason"),
    [
        pytest.param({"a": ["b"], "b": ["a"]}, ["a", "b"], "RequiresCycle", id="a circle"),
        pytest.param({"a": ["b"]}, ["a"], "RequiredMissing", id="nobody asks for it"),
        pytest.param({"a": ["b>=2"], "b": []}, ["a", "b"], "RequiredTooOld", id="too old"),
    ],
)
def test_requirements_that_cannot_be_met_are_named(
    requires: dict[str, list[str]], wanted: list[str], reason: str
) -> None:
    known = catalog(*(version(n, "1", requires=r) for n, r in requires.items()))
    found = resolve(wish(dict.fromkeys(wanted, "1")), known)
    assert found.problem is not None
    assert found.problem[0] == reason


def test_files_are_rendered_from_the_variables_of_all_layers_and_the_machine() -> None:
    text = "{{ role }} {{ zone }} {{ machine.name }} {{ machine.ip }} {{ machine.idc }} {{ package.version }} {{ args | join(',') }}\n"
    known = catalog(
        version("p", "1", configMaps=[{"name": "c", "value": "v1"}], args=["--x", "--y"]),
        config("c", files=[{"path": "/etc/p.conf", "content": text}]),
    )
    asked = wish({"p": "1"}, cluster={}, cluster_variables={"role": "web", "zone": "far"}, variables={"zone": "near"})
    assert resolve(asked, known).body["files"][0]["content"] == "web near m1 10.0.0.1 iad1 1 --x,--y\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{{ nothing }}", id="an undefined name"),
        pytest.param("{{ machine.__class__.__mro__ }}", id="a way into Python"),
        pytest.param("{{ ''.__class__ }}", id="a way through a string"),
        pytest.param("{% for %}", id="no template"),
        pytest.param("{{ 1 / 0 }}", id="a calculation that fails"),
        pytest.param("{{ 'x' * 2000000 }}", id="a file that is too large"),
        pytest.param("{% include '/etc/passwd' %}", id="a file of the worker"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_a_sentence_with_its_place(text: str) -> None:
    known = catalog(
        version("p", "1", configMaps=[{"name": "c", "value": "v1"}]),
        config("c", files=[{"path": "/etc/p", "content": text}]),
    )
    found = resolve(wish({"p": "1"}), known)
    assert found.problem is not None
    assert found.problem[0] == "TemplateError"
    assert found.problem[1].startswith("c-v1, /etc/p")


def test_a_text_without_template_marks_is_left_as_it_is() -> None:
    assert render("a % b # c\n", {}, "x") == "a % b # c\n"


@pytest.mark.parametrize(
    ("configs", "reason"),
    [
        pytest.param(
            [config("c", files=[{"path": "/a"}]), config("d", files=[{"path": "/a"}])],
            "FileTwice",
            id="one file, two owners",
        ),
        pytest.param(
            [config("c", sysctls={"a.b": 1}), config("d", sysctls={"a.b": 2})],
            "SysctlTwice",
            id="one sysctl, two values",
        ),
        pytest.param([config("c")], "ConfigUnknown", id="a configuration that is not there"),
    ],
)
def test_configurations_that_do_not_fit_together_are_named(configs: list[object], reason: str) -> None:
    maps = [{"name": "c", "value": "v1"}, {"name": "d", "value": "v1"}]
    found = resolve(wish({"p": "1"}), catalog(version("p", "1", configMaps=maps), *configs))  # type: ignore[arg-type]
    assert found.problem is not None
    assert found.problem[0] == reason


def test_a_class_that_does_not_exist_is_named() -> None:
    assert resolve(wish({}, className="gpu"), catalog()).problem == ("ClassUnknown", "There is no MachineClass gpu.")


def test_the_shorthand_for_an_artifact_is_one_artifact() -> None:
    found = resolve(wish({"p": "1"}), catalog(version("p", "1", config={"rpm": "http://pouch-1.0.rpm"})))
    assert [(a["format"], a["url"]) for a in found.body["packages"][0]["artifacts"]] == [
        ("rpm", "http://pouch-1.0.rpm")
    ]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.9", "1.10"),
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0.1"),
        ("1.0", "1.0-1"),
        ("2", "10"),
        ("1.0a", "1.0b"),
        ("1.0", "1.0a"),
    ],
)
def test_versions_have_an_order(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


NAMES = st.sampled_from(["a", "b", "c", "d"])
NUMBERS = st.sampled_from(["1", "1.0", "1.10", "2"])
VALUES = st.one_of(NUMBERS, st.sampled_from([1, 1.1, 2]))


@given(
    st.dictionaries(NAMES, VALUES),
    st.dictionaries(NAMES, VALUES),
    st.dictionaries(NAMES, st.lists(NAMES, max_size=3)),
    st.lists(NAMES),
)
def test_resolving_never_raises_is_the_same_twice_and_keeps_the_order_of_requirements(
    own: Json, cluster: Json, requires: dict[str, list[str]], disabled: list[str]
) -> None:
    known = catalog(
        *(version(n, v, requires=sorted(set(requires.get(n, [])) - {n})) for n in "abcd" for v in ("1", "1.10", "2"))
    )
    asked = wish(own, cluster=cluster, disabledPackages=disabled)
    first, second = resolve(asked, known), resolve(asked, known)
    assert first == second
    assert first.ok == (first.problem is None)
    names = [p["name"] for p in first.body.get("packages", [])]
    assert not set(names) & set(disabled)
    assert not first.ok or set(names) == set(wanted_versions(asked)[0])
    for number, package in enumerate(first.body.get("packages", [])):
        assert set(package["requires"]) <= set(names[:number])
    assert not first.ok or first.hash == hash64(first.body)
