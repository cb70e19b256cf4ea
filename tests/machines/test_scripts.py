"""Step scripts: values never reach a shell unquoted, and what runs without root runs here for real, inside the fence."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from machines import host_reasons
from machines.hosts import Action, Artifact, StepResult, WantedFile, WantedPackage, WantedUnit
from machines.scripts import VERBS, render, shell
from machines.scripts.stage import _dearmour
from tests.machines.sandbox import Sandbox, order

NASTY = [
    "a;touch canary", "$(touch canary)", "`touch canary`", "a\ntouch canary", "a|touch canary", "a&touch canary", "'; touch canary; '",
    '"; touch canary; "', "--opt", "-rf", "../../etc", "a b", "\x00", "a\x00b", "", "\ud800", "a\\", "*", "~", "${IFS}", "!x", "é",
    "END_OF_BASE64\ntouch canary", "%s", "x" * 5000,
]  # fmt: skip
SHA = "a" * 64


def wanted(path: str, content: str = "x\n", **more: object) -> WantedFile:
    return WantedFile(path, content, hashlib.sha256(content.encode()).hexdigest(), **more)  # type: ignore[arg-type]


def package(name: str = "pouch", version: str = "1.0", **more: object) -> WantedPackage:
    return WantedPackage(name, version, (), **more)  # type: ignore[arg-type]


DEB = Artifact("deb", "https://store.example/pouch.deb", SHA)
GOOD = {
    "stage-package": Action("stage-package", package=package(), artifact=DEB),
    "install-package": Action("install-package", package=package(), artifact=DEB),
    "remove-package": Action("remove-package", names=("pouch",)),
    "configure-pending": Action("configure-pending"),
    "write-files": Action("write-files", files=(wanted("/etc/a", validate=("true", "%s"), on_change=("restart:a.service",)),)),
    "remove-files": Action("remove-files", names=("/etc/a",)),
    "set-units": Action("set-units", units=(WantedUnit("a.service", True, True, False),)),
    "restart-units": Action("restart-units", names=("a.service",)),
    "set-sysctls": Action("set-sysctls", values={"net.ipv4.ip_forward": "1"}),
    "load-modules": Action("load-modules", names=("br_netfilter",)),
    "set-boot-parameters": Action("set-boot-parameters", values={"nosmt": ""}),
    "reboot": Action("reboot", values={"bootId": "f9d97960-3f61-46b9-b067-8d36e4e6b2e1"}),
    "health-check": Action("health-check", package=package(health_check=("curl", "-f", "http://localhost"))),
    "forget-host": Action("forget-host", names=("uid-1",)),
    "join-node": Action("join-node", files=(wanted("/etc/kubernetes/bootstrap-kubeconfig", mode="0600"),)),
    "leave-node": Action("leave-node"),
    "collect-evidence": Action("collect-evidence", names=("a.service",)),
    "clean-disk": Action("clean-disk", names=("journal", "package-cache", "images")),
}  # fmt: skip


def test_every_verb_has_a_case() -> None:
    assert set(GOOD) == set(VERBS)


@pytest.mark.parametrize("verb", GOOD)
@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_every_script_is_sound_shell(verb: str, shell: str) -> None:
    done = subprocess.run([shell, "-n"], input=render(GOOD[verb]), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("format", ["deb", "rpm", "tarball"])
def test_every_format_installs_by_sound_shell(format: str) -> None:
    action = replace(GOOD["install-package"], artifact=Artifact(format, "/srv/a", SHA, destination="/opt/x"))  # type: ignore[arg-type]
    assert subprocess.run(["dash", "-n"], input=render(action), text=True, check=False).returncode == 0


def test_an_unknown_verb_is_refused() -> None:
    with pytest.raises(ValueError, match="verb"):
        render(Action("rm -rf /"))


PLACES = {
    "package.name": lambda v: Action("stage-package", package=package(v), artifact=DEB),
    "package.version": lambda v: Action("install-package", package=package(version=v), artifact=DEB),
    "artifact.url": lambda v: Action("stage-package", package=package(), artifact=replace(DEB, url=v)),
    "artifact.sha256": lambda v: Action("stage-package", package=package(), artifact=replace(DEB, sha256=v)),
    "artifact.format": lambda v: Action("stage-package", package=package(), artifact=replace(DEB, format=v)),
    "artifact.gpg_key": lambda v: Action("stage-package", package=package(), artifact=replace(DEB, gpg_key=v or "x")),
    "artifact.destination": lambda v: Action(
        "install-package", package=package(), artifact=replace(DEB, format="tarball", destination=v or "x")
    ),
    "names[0]": lambda v: Action("remove-package", names=(v,)),
    "files[0].path": lambda v: Action("write-files", files=(wanted(v),)),
    "files[0].mode": lambda v: Action("write-files", files=(wanted("/a", mode=v),)),
    "files[0].owner": lambda v: Action("write-files", files=(wanted("/a", owner=v),)),
    "files[0].on_change": lambda v: Action("write-files", files=(wanted("/a", on_change=("restart:" + v,)),)),
    "units[0].name": lambda v: Action("set-units", units=(WantedUnit(v, True),)),
    "sysctls": lambda v: Action("set-sysctls", values={v: "1"}),
    "values": lambda v: Action("set-boot-parameters", values={v: "1"}),
    "values[quiet]": lambda v: Action("set-boot-parameters", values={"quiet": v + " "}),
    "values[bootId]": lambda v: Action("reboot", values={"bootId": v or "x"}),
}


# systemd's own escapes have backslashes in the names of units; they are quoted like everything else.
BACKSLASH_IS_FINE = {"units[0].name", "files[0].on_change"}
CASES = [(field, value) for field in PLACES for value in NASTY if not (value == "a\\" and field in BACKSLASH_IS_FINE)]


@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_nasty_name_is_refused_and_its_field_named(field: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        render(PLACES[field](value))
    assert field in str(caught.value) or isinstance(caught.value, UnicodeEncodeError)


@pytest.mark.parametrize(
    "path", ["etc/a", "/etc/../a", "/etc/a/", "//etc/a", "/etc//a", "/", "/etc/..", "/a\x7fb"], ids=lambda p: repr(p)
)
def test_a_path_is_plain_and_absolute(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        render(Action("write-files", files=(wanted(path),)))


def test_nothing_is_installed_without_a_sum_or_a_signature() -> None:
    with pytest.raises(ValueError, match=r"artifact\.sha256"):
        render(replace(GOOD["stage-package"], artifact=replace(DEB, sha256="")))


def test_content_that_is_not_its_sum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"files\[0\]\.sha256"):
        render(Action("write-files", files=(WantedFile("/a", "x", SHA),)))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "host")
    yield sandbox
    sandbox.kill_units()


_operations = iter(range(10_000))


def run(host: Sandbox, action: Action) -> StepResult:
    """The action inside the fence, to its end."""
    step = order(operation=f"op-{next(_operations)}")
    result = host.start(render(action), step)
    return host.wait(step.ref) if result.state == "Running" else result


def place(host: Sandbox, name: str) -> str:
    """A path in a folder that only its owner can write, as the way to a file must be."""
    return str(host.root / "srv" / name)


# The way into pytest's own folder leads through /tmp, which everybody may write: the check is for real hosts.
@pytest.fixture
def free_way(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shell.resource
    monkeypatch.setattr("machines.scripts.files.resource", lambda name: real(name) + "\nsafe_way() { :; }\n")


def owner_here() -> str:
    done = subprocess.run(["stat", "-c", "%U:%G", "/proc/self"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # each example starts processes: shrinking would take minutes
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200)


@settings(max_examples=12, phases=PHASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content="$(touch canary)", word="$(touch canary)")
@example(content='"; touch canary; "', word='"; touch canary; "')
@example(content="END_OF_BASE64\ntouch canary\n", word="'; touch canary; '")
@given(content=st.one_of(text, st.sampled_from([n for n in NASTY if "\ud800" not in n])), word=text)
def test_any_content_and_any_argument_arrive_as_they_are(
    host: Sandbox, free_way: None, content: str, word: str
) -> None:
    path = place(host, "any")
    Path(path).unlink(missing_ok=True)
    check = ("sh", str(host.root / "check"), path, "%s", word)
    (host.root / "check").write_text('cat "$2" >/dev/null && printf "%s" "$3" >"$1.seen"\n')
    file = wanted(path, content, owner=owner_here(), validate=check)
    result = run(host, Action("write-files", files=(file,)))
    assert result.state == "Succeeded", result
    assert Path(path).read_bytes() == content.encode()
    staged = f"{host.root}/srv/.any.fleet-new"
    assert Path(path + ".seen").read_bytes() == word.replace("%s", staged).encode()
    assert not list(host.root.glob("**/canary")) and not Path("canary").exists()


@settings(max_examples=10, phases=PHASES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=st.one_of(text, st.sampled_from([n for n in NASTY if "\x00" not in n and "\ud800" not in n])))
def test_a_health_check_gets_its_words_as_they_are(host: Sandbox, word: str) -> None:
    check = ("sh", "-c", 'printf "%s" "$1" >"$FLEET_ROOT/word"', "sh", word)
    assert run(host, Action("health-check", package=package(health_check=check))).state == "Succeeded"
    assert (host.root / "word").read_bytes() == word.encode()


def test_a_file_is_written_once_and_then_left_alone(host: Sandbox, free_way: None) -> None:
    path = place(host, "deep/down/a.conf")
    action = Action("write-files", files=(wanted(path, "one\n", mode="0640", owner=owner_here()),))
    first = run(host, action)
    before = Path(path).stat()
    second = run(host, action)
    assert (first.facts["changed"], second.facts["changed"]) == ("1", "0")
    after = Path(path).stat()  # reading moves only the access time
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert f"{before.st_mode & 0o7777:o}" == "640"


def test_a_file_that_does_not_validate_changes_nothing_at_all(host: Sandbox, free_way: None) -> None:
    good, bad = place(host, "good"), place(host, "bad")
    me = owner_here()
    run(host, Action("write-files", files=(wanted(good, "old\n", owner=me), wanted(bad, "old\n", owner=me))))
    check = ("sh", "-c", "echo line 3: nonsense >&2; exit 4")
    result = run(
        host,
        Action("write-files", files=(wanted(good, "new\n", owner=me), wanted(bad, "new\n", owner=me, validate=check))),
    )
    assert (result.state, result.reason) == ("Failed", "ValidateFailed")
    assert "line 3: nonsense" in result.message
    assert (Path(good).read_text(), Path(bad).read_text()) == ("old\n", "old\n")
    assert sorted(p.name for p in Path(good).parent.iterdir()) == ["bad", "good"]


def test_a_link_is_replaced_and_not_followed(host: Sandbox, free_way: None) -> None:
    victim, path = Path(place(host, "victim")), place(host, "link")
    victim.parent.mkdir()
    victim.write_text("safe")
    Path(path).symlink_to(victim)
    assert run(host, Action("write-files", files=(wanted(path, owner=owner_here()),))).state == "Succeeded"
    assert (victim.read_text(), Path(path).is_symlink()) == ("safe", False)


def test_a_way_through_everybodys_folder_is_refused(host: Sandbox) -> None:
    shared = host.root / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    result = run(host, Action("write-files", files=(wanted(str(shared / "a"), owner=owner_here()),)))
    assert (result.state, result.reason) == ("Failed", "UnsafePath")
    assert list(shared.iterdir()) == []


def test_an_unknown_owner_is_named(host: Sandbox, free_way: None) -> None:
    result = run(host, Action("write-files", files=(wanted(place(host, "a"), owner="nosuchuser:nosuchgroup"),)))
    assert (result.reason, "nosuchuser:nosuchgroup" in result.message) == ("OwnerUnknown", True)


def test_removing_is_idempotent_and_spares_folders(host: Sandbox, free_way: None) -> None:
    path = Path(place(host, "a"))
    path.parent.mkdir()
    path.write_text("x")
    action = Action("remove-files", names=(str(path),))
    assert [run(host, action).facts["changed"] for _ in range(2)] == ["1", "0"]
    assert run(host, Action("remove-files", names=(str(path.parent),))).reason == "WriteFailed"


class Store(http.server.BaseHTTPRequestHandler):
    """/ok, /short (half of what it announced), /gone (404), anything else 503."""

    def do_GET(self) -> None:
        if self.path in ("/ok", "/short"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * (1000 if self.path == "/ok" else 500))
        else:
            self.send_error(404 if self.path == "/gone" else 503)

    def do_HEAD(self) -> None:
        self.send_error(405)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def staging(url: str, sha256: str, **more: object) -> Action:
    return Action("stage-package", package=package(**more), artifact=Artifact("deb", url, sha256), timeout_seconds=30)  # type: ignore[arg-type]


OK_SUM = hashlib.sha256(b"x" * 1000).hexdigest()


@pytest.mark.parametrize(
    ("path", "sha256", "reason", "words"),
    [
        ("/ok", OK_SUM, "", "staged"),
        ("/ok", SHA, "ChecksumMismatch", OK_SUM),
        ("/ok", SHA, "ChecksumMismatch", SHA),
        ("/gone", SHA, "DownloadFailed", "HTTP 404"),
        ("/busy", SHA, "DownloadFailed", "HTTP 503"),
        ("/short", SHA, "DownloadTruncated", "before"),
    ],
)
def test_a_download_ends_with_its_own_reason(
    host: Sandbox, store: str, path: str, sha256: str, reason: str, words: str
) -> None:
    result = run(host, staging(store + path, sha256))
    assert result.reason == reason
    assert words in result.message
    kept = list((host.state / "stage").glob("*/artifact*"))
    assert len(kept) == (0 if reason else 1)


def test_the_last_two_versions_stay_staged(host: Sandbox, tmp_path: Path) -> None:
    for version in ("1", "2", "3", "4"):
        source = tmp_path / f"v{version}"
        source.write_text(version)
        sha256 = hashlib.sha256(version.encode()).hexdigest()
        assert run(host, staging(str(source), sha256, version=version)).state == "Succeeded"
    kept = {p.read_text() for p in (host.state / "stage").glob("*/artifact.deb")}
    assert kept == {"3", "4"}


def tarball(path: Path, members: list[tarfile.TarInfo], data: bytes = b"data") -> Artifact:
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return Artifact("tarball", str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info


def install(host: Sandbox, artifact: Artifact, version: str = "1.0") -> StepResult:
    stage = Action("stage-package", package=package("cni", version), artifact=artifact)
    assert run(host, stage).state == "Succeeded"
    return run(host, Action("install-package", package=package("cni", version), artifact=artifact))


@pytest.mark.parametrize(
    "bad",
    [
        [member("/etc/cron.d/evil")],
        [member("../evil")],
        [member("a/../../evil")],
        [member("out", tarfile.SYMTYPE, "/etc")],
        [member("up", tarfile.SYMTYPE, "../../..")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("link", tarfile.SYMTYPE, "/tmp"), member("link/evil")],
        [member("new\nline")],
    ],
    ids=["absolute", "parent", "inner parent", "absolute link", "link upwards", "fifo", "through a link", "newline"],
)
def test_a_tarball_that_leads_outside_is_refused(host: Sandbox, tmp_path: Path, bad: list[tarfile.TarInfo]) -> None:
    result = install(host, tarball(tmp_path / "bad.tar", [member("good"), *bad]))
    assert (result.state, result.reason) in {("Failed", "UnsafeArchive"), ("Failed", "ArtifactUnreadable")}
    assert not list(tmp_path.glob("**/evil")) and not Path("/tmp/evil").exists()
    assert not (host.root / "opt/fleet/cni/1.0").exists()
    assert not (host.root / "opt/fleet/cni/current").exists()


def test_a_tarball_is_switched_by_its_link_and_the_one_before_stays(host: Sandbox, tmp_path: Path) -> None:
    home = host.root / "opt/fleet/cni"
    for version in ("1.0", "1.1", "1.2"):
        artifact = tarball(
            tmp_path / f"{version}.tar", [member("bin/a"), member("lib.so", tarfile.SYMTYPE, "bin/a")], version.encode()
        )
        result = install(host, artifact, version)
        assert (result.state, result.facts["installedVersion"]) == ("Succeeded", version)
        assert (home / "current/bin/a").read_text() == version
    assert sorted(p.name for p in home.iterdir()) == ["1.1", "1.2", "current"]
    assert install(host, artifact, "1.2").facts["unchanged"] == "true"


def test_a_changed_file_of_a_tarball_is_seen_and_repaired(host: Sandbox, tmp_path: Path) -> None:
    artifact = tarball(tmp_path / "a.tar", [member("bin/a")])
    install(host, artifact)
    file = host.root / "opt/fleet/cni/1.0/bin/a"
    file.write_text("evil")
    assert "unchanged" not in install(host, artifact).facts
    assert file.read_bytes() == b"data"


def test_a_package_that_fleet_did_not_install_is_not_removed(host: Sandbox) -> None:
    result = run(host, Action("remove-package", names=("dpkg",)))
    assert result.reason in ("NotInstalledByFleet", "")  # a host without dpkg has nothing to refuse
    assert result.state == ("Failed" if Path("/var/lib/dpkg/info/dpkg.list").exists() else "Succeeded")


def test_a_failing_health_check_is_tried_until_its_time_is_over(host: Sandbox) -> None:
    check = ("sh", "-c", 'echo x >>"$FLEET_ROOT/tries"; echo not yet; exit 9')
    result = run(host, Action("health-check", package=package(health_check=check, health_timeout_seconds=2)))
    assert (result.reason, result.facts["exitCode"]) == ("HealthCheckFailed", "9")
    assert "not yet" in result.message
    assert len((host.root / "tries").read_text().split()) >= 2


def test_forgetting_leaves_only_the_tombstone(host: Sandbox) -> None:
    assert run(host, Action("forget-host", names=("uid-1",))).state == "Succeeded"
    assert sorted(p.name for p in host.state.iterdir()) == ["forgotten", "lock", "op"]


def test_the_key_of_a_signature_is_dearmoured() -> None:
    block = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\nAQID\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert _dearmour(block) == b"\x01\x02\x03"


def test_every_reason_of_a_script_is_explained() -> None:
    folder = Path(render.__code__.co_filename).parent
    texts = "".join(p.read_text() for pattern in ("*.sh", "*.py") for p in folder.glob(pattern))
    used = set(re.findall(r"\b(?:fail|explain) ([A-Z][A-Za-z]+)", texts))
    assert len(used) > 25
    assert used <= set(host_reasons.ALL)
    assert set(host_reasons.STEP) <= used
