"""Units, sysctls, modules, boot parameters, reboot, health checks, farewell. Pure."""

from __future__ import annotations

from machines.hosts import Action, WantedUnit
from machines.observe import sysctl_path
from machines.scripts.shell import argv, assign, checked, quote, resource, script


def set_units(action: Action) -> str:
    """Each unit's wanted properties in the order unmask, enable or disable, start or stop, mask."""
    if not action.units:
        raise ValueError("units: none given")
    lines = [_unit_lines(unit, f"units[{number}]") for number, unit in enumerate(action.units)]
    return script(resource("units.sh"), "systemctl daemon-reload", *lines, "done_with 'the units are as wanted'")


def restart_units(action: Action) -> str:
    """Restart each of `names`, in order, and see it run."""
    if not action.names:
        raise ValueError("names: no unit to restart")
    units = [quote(checked(name, "unit", f"names[{number}]")) for number, name in enumerate(action.names)]
    lines = [f"restarted {unit}" for unit in units]
    return script(resource("units.sh"), "systemctl daemon-reload", *lines, "done_with 'the units run'")


def _unit_lines(unit: WantedUnit, field: str) -> str:
    name = quote(checked(unit.name, "unit", f"{field}.name"))
    lines = []
    if unit.masked is False:
        lines.append(f"unmasked {name}")
    if unit.enabled is not None:
        lines.append(f"{'enabled' if unit.enabled else 'disabled'} {name}")
    if unit.started is not None:
        lines.append(f"{'started' if unit.started else 'stopped'} {name}")
    if unit.masked:
        lines.append(f"masked {name}")
    return "\n".join(lines)


def set_sysctls(action: Action) -> str:
    """`values` are all of Fleet's sysctls on this host: applied, read back, then kept in /etc/sysctl.d/90-fleet.conf."""
    lines = [
        """
apply() {
    [ -e "/proc/sys/$2" ] || fail SysctlRefused "$1: this kernel has no such sysctl"
    printf '%s\\n' "$3" 2>"$step/words" >"/proc/sys/$2" || fail SysctlRefused "$1 = $3: the kernel refuses it"
    seen=$(tr -s '\\t\\n' '  ' <"/proc/sys/$2")
    [ "${seen% }" = "$3" ] || fail SysctlRefused "$1 is ${seen% } after it was set to $3"
}
"""
    ]
    kept = ["# Written by Fleet."]
    for key, value in sorted(action.values.items()):
        path = sysctl_path(key)
        text = " ".join(checked(value, "sysctl value", f"values[{key[:60]}]").split())
        lines.append(f"apply {quote(key)} {quote(path)} {quote(text)}")
        kept.append(f"{path} = {text}")
    lines.append(_keep("/etc/sysctl.d/90-fleet.conf", kept if action.values else []))
    return script(*lines, "done_with 'the sysctls are set'")


def load_modules(action: Action) -> str:
    """`names` are all of Fleet's modules on this host: loaded now, and at boot by /etc/modules-load.d/fleet.conf."""
    names = [checked(name, "module", f"names[{number}]") for number, name in enumerate(action.names)]
    lines = [
        """
load() {
    [ ! -d "/sys/module/$(printf '%s' "$1" | tr - _)" ] || return 0
    modprobe -- "$1" 2>"$step/words" || fail ModuleMissing "$1: $(last_words "$step/words" 1)"
}
"""
    ]
    lines += [f"load {quote(name)}" for name in names]
    lines.append(_keep("/etc/modules-load.d/fleet.conf", ["# Written by Fleet.", *names] if names else []))
    return script(*lines, "done_with 'the modules are loaded'")


def _keep(path: str, lines: list[str]) -> str:
    if not lines:
        return f"rm -f {quote(path)}"
    text = "\n".join(lines)
    return (
        f"mkdir -p {quote(path.rsplit('/', 1)[0])}\n"
        f"printf '%s\\n' {quote(text)} | put {quote(path)} || fail DiskFull {quote('cannot write ' + path)}\n"
        f"chmod 0644 {quote(path)}"
    )


def set_boot_parameters(action: Action) -> str:
    """`values` are all of Fleet's kernel parameters: name to value, an empty value for a plain word."""
    parameters = []
    for key, value in sorted(action.values.items()):
        name = checked(key, "boot parameter", "values")
        checked(value, "boot value", f"values[{name}]")
        parameters.append(f"{name}={value}" if value else name)
    return script(assign(parameters=" ".join(parameters)), resource("boot.sh"))


def reboot(action: Action) -> str:
    """Order a reboot for two seconds later. `values["bootId"]` is the boot to be ended: in another one nothing is done."""
    boot_id = action.values.get("bootId", "")
    if boot_id:
        checked(boot_id, "boot id", "values[bootId]")
    body = """
now=$(cat /proc/sys/kernel/random/boot_id)
fact bootIdBefore "$now"
if [ -n "$boot" ] && [ "$now" != "$boot" ]; then
    fact unchanged true
    done_with 'the host has been rebooted already'
fi
# The intent first; the order later, so that the result of this step is on the disk before the host goes down.
printf '%s\\n' "$now" | put "$state/reboot" || fail DiskFull "cannot write $state/reboot"
sync
systemd-run --quiet --collect --on-active=2 --timer-property=AccuracySec=100ms --unit="reboot-by-fleet-${now%%-*}" \\
    systemctl reboot >"$step/words" 2>&1 </dev/null || fail RebootFailed "$(last_words "$step/words")"
done_with 'the reboot is ordered'
"""
    return script(assign(boot=boot_id), body)


def health_check(action: Action) -> str:
    """Try the package's check once a second until it holds or its time is over."""
    if action.package is None:
        raise ValueError("package: missing")
    check = argv(action.package.health_check, "package.health_check")
    seconds = max(1, min(action.package.health_timeout_seconds, max(1, action.timeout_seconds - 5)))
    body = f"""
end=$(($(date +%s) + seconds))
while :; do
    left=$((end - $(date +%s)))
    [ $left -ge 1 ] || left=1
    timeout -k 2 "$left" {check} >"$step/words" 2>&1 </dev/null
    code=$?
    fact exitCode $code
    [ $code -ne 0 ] || done_with "$(last_words "$step/words" 1)"
    [ "$(date +%s)" -lt $end ] || break
    sleep 1
done
fail HealthCheckFailed "code $code after $seconds s: $(last_words "$step/words" 1)"
"""
    return script(assign(seconds=str(seconds)), body)


def forget_host(action: Action) -> str:
    """The last step of a decommission: `names[0]` is the machine's uid. Marker, fence state, ledgers and stage go."""
    if not action.names:
        raise ValueError("names: the uid of the machine is missing")
    uid = quote(checked(action.names[0], "package", "names[0]"))
    body = f"""
/bin/sh "$FLEET_FENCE" forget {uid} >"$step/words" 2>&1 || fail StepFailed "$(last_words "$step/words" 2)"
rm -rf "$state/stage" "$state/package" "$state/tarball" "$state/pending" "$state/boot-parameters" "$state/reboot"
done_with 'the host belongs to nobody'
"""
    return script(body)
