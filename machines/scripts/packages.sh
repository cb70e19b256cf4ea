# Shared by all package steps. Ledger: /var/lib/fleet/package/NAME with "format package version declared staged" lines.
policy=$root/usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none UCF_FORCE_CONFFOLD=1

# Maintainer scripts start no services: Fleet restarts units itself. The host's own policy is put back afterwards;
# if this script dies, the fence does it (ExecStopPost, and before any later step).
deny_services() {
    if [ -e "$policy" ] && ! grep -q '^# marked by fleet' "$policy"; then mv "$policy" "$policy.fleet-saved"; fi
    printf '#!/bin/sh\n# marked by fleet: denies service starts during a package step\nexit 101\n' >"$policy" &&
        chmod 0755 "$policy" || fail DiskFull "cannot write $policy"
}
allow_services() {
    if [ -e "$policy.fleet-saved" ]; then mv -f "$policy.fleet-saved" "$policy"
    elif grep -q '^# marked by fleet' "$policy" 2>/dev/null; then rm -f "$policy"; fi
}
trap 'allow_services; clean_up' EXIT

wait_for_lock() {
    waited=0
    while holder=$(lock_holder 2>/dev/null); [ -n "$holder" ]; do
        [ $waited -lt "$lock_seconds" ] || fail PackageLockHeld "the package lock is held by $holder for more than $lock_seconds s"
        sleep 1
        waited=$((waited + 1))
    done
}

# The command of $@ with its words in $scratch/words; a lock that was lost in a race is named too.
quietly() { "$@" >"$scratch/words" 2>&1 </dev/null; status=$?; grep -v '^(Reading database' "$scratch/words"; return $status; }
explain() {
    if grep -qiE 'could not get lock|is locked by|transaction lock' "$scratch/words"; then
        fail PackageLockHeld "the package lock is held by $(lock_holder 2>/dev/null): $(last_words "$scratch/words" 1)"
    elif grep -qi 'no space left' "$scratch/words" || full /var || full /usr; then
        fail DiskFull "no room on the disk: $(last_words "$scratch/words" 2)"
    fi
    fail "$1" "$2: $(grep -v '^[[:space:]]*$' "$scratch/words" | grep -iE 'error|^E:|depends|conflict|held|refus|fail|is needed' | tail -n 6 | one_line)"
}

# Packages that are neither installed nor gone, but the one in $1: that one is about to be replaced, and its own broken
# configure script must not keep a rollback from happening.
unsound() {
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null |
        grep -vE ' (installed|config-files|not-installed|triggers-awaited|triggers-pending)$' | grep -vF "${1:-/} "
}
configure_pending() {
    [ -n "$(dpkg --audit 2>&1)" ] || return 0
    [ -z "${1:-}" ] || [ -n "$(unsound "$1")" ] || return 0
    quietly dpkg --force-confold --force-confdef --configure -a
    if [ -n "$(dpkg --audit 2>&1)" ] && { [ -z "${1:-}" ] || [ -n "$(unsound "$1")" ]; }; then
        fail PackageDatabaseBroken "still not sound after dpkg --configure -a: $(dpkg --audit 2>&1 | one_line)"
    fi
    fact configured true
}

ledger_of() { sed -n "s/^$1 //p" "$state/package/$package" 2>/dev/null | head -n 1; }
write_ledger() {
    mkdir -p "$state/package"
    printf '%s\n' "format $1" "package $2" "version $3" "declared $declared" "staged $folder" | put "$state/package/$package" ||
        fail DiskFull "cannot write the ledger in $state/package"
}
staged() {
    artifact=$state/stage/$folder/artifact.$1
    [ -f "$artifact" ] || fail NotStaged "$package $declared is not staged on this host"
    [ "$(sum_of "$artifact")" = "$(cat "$state/stage/$folder/verified" 2>/dev/null)" ] ||
        fail ChecksumMismatch "the staged $artifact is not what was verified"
}
# Another real package under the same name would leave the old one behind; only kernels stay side by side.
same_package() {
    before=$(ledger_of package)
    [ -z "$before" ] || [ "$before" = "$1" ] || [ "$kernel" = 1 ] ||
        fail ArtifactMismatch "$package was installed as $before, this artifact is $1"
}
