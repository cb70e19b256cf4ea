"""join-node and leave-node: what a kubelet joins its cluster with. Pure."""

from __future__ import annotations

from machines.hosts import Action
from machines.join import BOOTSTRAP, CA, KUBELET_UNIT, OLD
from machines.scripts.files import write_files
from machines.scripts.shell import quote, resource, script, words


def join_node(action: Action) -> str:
    """Write `files` (the bootstrap kubeconfig and the cluster's CA), forget what an earlier join left, start a kubelet that is there anew.

    The copy of the token that the step was sent with goes at the end.
    """
    unit = quote(KUBELET_UNIT)
    after = (
        f"rm -rf -- {words(OLD)} || fail WriteFailed 'cannot remove the old credentials'\n"
        f'if [ "$(systemctl show -p LoadState --value {unit})" = loaded ]; then systemctl reset-failed {unit} 2>/dev/null; '
        f'systemctl --no-block restart {unit} >"$step/words" 2>&1 || fail UnitFailed "$(last_words "$step/words")"; fi\n'
        'rm -f "$step/content"'
    )
    return write_files(action, after)


def leave_node(action: Action) -> str:
    """Stop the kubelet and take away what it could join or speak with."""
    unit = quote(KUBELET_UNIT)
    body = f"""
if [ "$(systemctl show -p LoadState --value {unit})" = loaded ]; then
    systemctl disable --now {unit} >"$step/words" 2>&1 || fail UnitFailed "$(last_words "$step/words")"
fi
rm -rf -- {words((*OLD, BOOTSTRAP, CA))} || fail WriteFailed 'cannot remove the credentials of the node'
done_with 'the host has no credentials of the cluster any more'
"""
    return script(resource("units.sh"), body)
