"""write-files and remove-files. Pure."""

from __future__ import annotations

import hashlib

from machines.hosts import Action, WantedFile
from machines.scripts.shell import checked, embed, quote, resource, script, words

LIMIT = 1024 * 1024  # bytes of one file; larger things are packages


def write_files(action: Action, *after: str) -> str:
    """Stage all, validate all, rename all, then reload or restart each unit named by on_change once; `after` runs before that."""
    if not action.files:
        raise ValueError("files: none given")
    paths = [file.path for file in action.files]
    if len(set(paths)) != len(paths):
        raise ValueError("files: the same path is given twice")
    parts = [resource("files.sh")]
    parts += [_stage(file, f"files[{number}]") for number, file in enumerate(action.files)]
    parts += [_validate(file, f"files[{number}].validate") for number, file in enumerate(action.files) if file.validate]
    parts += [_place(file, f"files[{number}].on_change") for number, file in enumerate(action.files)]
    return script(*parts, *after, "finish_files")


def remove_files(action: Action) -> str:
    """Remove regular files and links by name; a folder is refused. `files` may carry their on_change."""
    if not action.names:
        raise ValueError("names: no file to remove")
    hooks = {file.path: file.on_change for file in action.files}
    parts = [resource("files.sh")]
    for number, path in enumerate(action.names):
        name = quote(checked(path, "path", f"names[{number}]"))
        notes = _notes(hooks.get(path, ()), f"files[{path[:60]}].on_change")
        parts.append(
            f"if [ -e {name} ] || [ -L {name} ]; then\nsafe_way {name}\n"
            f'[ -L {name} ] || [ -f {name} ] || fail WriteFailed {name}" is not a file"\n{notes}'
            f'rm -f -- {name} || fail WriteFailed "cannot remove "{name}\nchanged="$changed\n"{name}\nfi'
        )
    return script(*parts, "finish_files")


def _stage(file: WantedFile, field: str) -> str:
    content = file.content.encode()
    if len(content) > LIMIT:
        raise ValueError(f"{field}.content: {len(content)} bytes are more than {LIMIT}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(f"{field}.sha256: not the sum of the content")
    owner = checked(file.owner, "owner", f"{field}.owner")
    arguments = [
        checked(file.path, "path", f"{field}.path"),
        checked(file.mode, "mode", f"{field}.mode"),
        owner if ":" in owner else f"{owner}:{owner}",
        checked(file.sha256, "sha256", f"{field}.sha256"),
    ]
    # Not a pipe: stage_file sets variables, which a pipe's subshell would lose.
    return f'>"$step/content" {embed(content)}stage_file {words(arguments)} <"$step/content"'


def _validate(file: WantedFile, field: str) -> str:
    if not file.validate[0] or "%s" in file.validate[0]:
        raise ValueError(f"{field}: an argv list needs a command")
    new = "{}/.{}.fleet-new".format(*file.path.rsplit("/", 1))
    command = words(argument.replace("%s", new) for argument in file.validate)
    return f"if is_changed {quote(file.path)}; then validate {quote(file.path)} {command}; fi"


def _place(file: WantedFile, field: str) -> str:
    path = quote(file.path)
    return f"if is_changed {path}; then\n{_notes(file.on_change, field)}place {path}\nfi"


def _notes(on_change: tuple[str, ...], field: str) -> str:
    lines = []
    for entry in on_change:
        verb, _, unit = entry.partition(":")
        if entry != "daemon-reload":
            if verb not in ("reload", "restart"):
                raise ValueError(f"{field}: reload:UNIT, restart:UNIT or daemon-reload: {entry[:60]!r}")
            checked(unit, "unit", field)
        lines.append(f"note {quote(entry)}\n")
    return "".join(lines)
