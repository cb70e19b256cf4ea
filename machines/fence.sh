#!/bin/sh
# Fleet's fence: the only door through which Fleet changes this host. No daemon; state under /var/lib/fleet.
#
#   fence start INSTALLATION UID INCARNATION EPOCH OPERATION STEP ATTEMPT SECONDS SHA256 [OLD-UID]  < step script
#   fence poll OPERATION STEP ATTEMPT          what became of an attempt; never starts anything
#   fence claim INSTALLATION UID INCARNATION EPOCH [OLD-UID]   raise the epoch without an effect
#   fence forget UID                           last step of a decommission: drop marker and fence state
#   fence run | finish OPERATION STEP ATTEMPT  called by the transient unit only
#
# Answers are lines "state X", "reason X", "message ...", "exit N", "fact KEY VALUE", "output BASE64".
# Why an attempt never runs twice: its folder is made and synced under the lock before its unit is started, and a
# folder that exists is only ever reported. Why a stale owner cannot act: (incarnation, epoch) is compared under the
# same lock at start and once more inside the unit. Why an attempt called Interrupted stays so: that word is written
# as its result, and a unit that comes late finds a result and leaves.
set -u
umask 077
LC_ALL=C
root=${FLEET_ROOT:-}   # tests only
PATH=${FLEET_ROOT:+$root/bin:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
state=$root/var/lib/fleet
self=$root/usr/local/lib/fleet/fence
policy=$root/usr/sbin/policy-rc.d

say() { printf '%s\n' "$@"; }
refuse() { say 'state Refused' "reason $1" "message $2"; exit 3; }
one_line() { tr '\n\r\t' '   ' | tr -d '\000-\037' | head -c 900; }
put() { cat >"$1.new" && sync "$1.new" && mv -f "$1.new" "$1" && sync "${1%/*}"; }   # temp, fsync, rename, fsync
word() { case $1 in '' | .* | -* | *[!A-Za-z0-9._-]*) refuse BadRequest "not a plain word: $(say "$1" | one_line)" ;; esac; }
number() { case $1 in '' | *[!0-9]* | ???????????????????*) refuse BadRequest "not a number: $(say "$1" | one_line)" ;; esac; }
reached() { [ "$1" -gt "$3" ] || { [ "$1" -eq "$3" ] && [ "$2" -ge "$4" ]; }; }   # INC EPOCH is at or after INC EPOCH

lock() {
    mkdir -p "$state" || refuse DiskFull "cannot make $state"
    exec 9>>"$state/lock" || refuse DiskFull "cannot open $state/lock"
    flock -w 10 9 || refuse FenceBusy 'another command holds the lock of the fence for more than 10 s'
}

# Gives back the host's own policy-rc.d, and the scratch space, of a step that died before it could do so itself.
tidy() {
    rm -rf "$state"/tmp.* "$state"/stage/tmp.*
    if [ -e "$policy.fleet-saved" ]; then
        mv -f "$policy.fleet-saved" "$policy"
    elif [ -f "$policy" ] && grep -q '^# marked by fleet' "$policy" 2>/dev/null; then
        rm -f "$policy"
    fi
}

# Sets folder and unit of an attempt.
attempt() {
    word "$1" && word "$2" && number "$3"
    parent=$state/op/$1 dir=$state/op/$1/$2-$3 unit=fleet-step-$1-$2-$3.service
}

# Refuses whoever is not this host's owner at the newest epoch; remembers a newer epoch before anything is done.
admit() {
    word "$1" && word "$2" && number "$3" && number "$4"
    if [ -e "$state/identity" ]; then
        read -r installation uid rest <"$state/identity"
        if [ "${installation:-} ${uid:-}${rest:+ $rest}" != "$1 $2" ]; then
            [ -n "${5:-}" ] && [ "${uid:-}" = "$5" ] ||
                refuse IdentityMismatch "this host belongs to machine ${uid:-?} of installation ${installation:-?}"
            rm -f "$state/fence"
            say "$1 $2" | put "$state/identity" || refuse DiskFull "cannot write $state/identity"
        fi
    else
        # A stopped worker that wakes up after the decommission must not claim the host again.
        if read -r incarnation epoch 2>/dev/null <"$state/forgotten/$2"; then
            reached "$incarnation" "$epoch" "$3" "$4" &&
                refuse StaleEpoch "machine $2 was decommissioned at epoch $incarnation/$epoch, asked for $3/$4"
        fi
        say "$1 $2" | put "$state/identity" || refuse DiskFull "cannot write $state/identity"
    fi
    incarnation=-1 epoch=-1
    if [ -e "$state/fence" ]; then
        read -r incarnation epoch uid <"$state/fence"
        number "${incarnation:-}" && number "${epoch:-}"
    fi
    reached "$3" "$4" "$incarnation" "$epoch" || refuse StaleEpoch "epoch $3/$4 is older than $incarnation/$epoch, the newest seen here"
    [ "$3 $4" = "$incarnation $epoch" ] || say "$3 $4 $2" | put "$state/fence" || refuse DiskFull "cannot write $state/fence"
}

# Prints how the attempt stands; call under the lock.
answer() {
    if [ ! -d "$dir" ]; then
        say 'state Unknown' 'reason NoSuchStep' "message no attempt ${dir##*/} is known here"
        return
    fi
    if [ ! -s "$dir/result" ]; then
        active=$(systemctl show -p ActiveState --value "$unit" 2>/dev/null)
        case $active in
        active | activating | deactivating | reloading | maintenance) ;;
        '') say 'state Unknown' 'reason SystemdUnreachable' 'message systemd does not answer'; return ;;
        *) [ -s "$dir/result" ] || interrupted | put "$dir/result" ;;
        esac
    fi
    if [ -s "$dir/result" ]; then cat "$dir/result"; else say 'state Running'; fi
    case $dir in *-collect-evidence-*) most=65536 ;; *) most=4096 ;; esac
    [ ! -s "$dir/log" ] || say "output $(tail -c $most "$dir/log" | base64 -w0)"
}

interrupted() {
    rm -f "$dir/reserve"
    say 'state Interrupted' 'reason Interrupted' 'message the step ended without a result: the host or its unit went down in the middle'
}

start() {
    [ $# -ge 9 ] || refuse BadRequest 'start: too few arguments'
    attempt "$5" "$6" "$7" && number "$8"
    lock
    admit "$1" "$2" "$3" "$4" "${10:-}"
    if [ ! -d "$dir" ]; then
        wait_for_others "$@"
        tidy
        find "$state/op" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} + 2>/dev/null
        trap '' HUP PIPE   # from here on the caller's connection no longer matters
        prepare "$@"
        systemd-run --quiet --collect --unit="$unit" --description="Fleet step $6" \
            --property=RuntimeMaxSec="$8" --property=TimeoutStopSec=15 --property=KillMode=control-group \
            --property=ExecStopPost="/bin/sh $self finish $5 $6 $7" \
            /bin/sh "$self" run "$5" "$6" "$7" 9>&- </dev/null >"$dir/log" 2>&1 || {
            rm -f "$dir/reserve"
            { say 'state Failed' 'reason CannotStart'; say "message systemd-run: $(one_line <"$dir/log")"; } | put "$dir/result"
        }
        exec 9>&-
        tries=0   # most steps are short: their end is worth two seconds of waiting
        while [ ! -s "$dir/result" ] && [ $tries -lt 20 ]; do sleep 0.1; tries=$((tries + 1)); done
        lock
    fi
    answer
}

# One step at a time. A unit that has just ended still runs its ExecStopPost, which needs the lock: it is let through,
# and the owner is looked at again, for the world may have moved meanwhile.
wait_for_others() {
    tries=0
    while busy=$(systemctl list-units --plain --no-legend --state=active,activating,deactivating,reloading 'fleet-step-*' 2>/dev/null)
        [ -n "$busy" ]
    do
        [ $tries -lt 10 ] || refuse StepRunning "another step still runs on this host: ${busy%% *}"
        tries=$((tries + 1))
        exec 9>&-
        sleep 0.15
        lock
        admit "$1" "$2" "$3" "$4" "${10:-}"
    done
    [ ! -d "$dir" ] || { answer; exit 0; }
}

# Makes and syncs the folder of the attempt. The reserve lets a result be written on a disk that the step filled.
prepare() {
    mkdir -p "$parent" && mkdir "$dir" || refuse DiskFull "cannot make $dir"
    cat >"$dir/script" && say "$2 $3 $4" >"$dir/meta" && dd if=/dev/zero of="$dir/reserve" bs=8192 count=1 2>/dev/null || {
        rm -rf "$dir"
        refuse DiskFull "cannot write the step into $dir"
    }
    sum=$(sha256sum <"$dir/script")
    [ "${sum%% *}" = "$9" ] || { rm -rf "$dir"; refuse Truncated 'the step script did not arrive whole'; }
    sync "$dir/script" "$dir/meta" "$dir" "$parent" "$state/op"
}

# Inside the unit: once more under the lock, then the effect, then the result.
run() {
    attempt "$@"
    lock
    [ ! -s "$dir/result" ] || exit 0
    read -r uid incarnation epoch <"$dir/meta"
    read -r newest_incarnation newest_epoch newest_uid <"$state/fence"
    if [ "$newest_uid" != "$uid" ] || ! reached "$incarnation" "$epoch" "$newest_incarnation" "$newest_epoch"; then
        rm -f "$dir/reserve"
        { say 'state Refused' 'reason StaleEpoch'
          say "message epoch $incarnation/$epoch was overtaken by $newest_incarnation/$newest_epoch before the step began"; } | put "$dir/result"
        exit 0
    fi
    exec 9>&-
    FLEET_STEP=$dir FLEET_FENCE=$self /bin/sh "$dir/script" >"$dir/log" 2>&1 </dev/null
    code=$?
    # Killed, or failed because the host goes down: not a result, poll says Interrupted.
    [ $code -lt 128 ] || exit $code
    [ $code -eq 0 ] || [ "$(systemctl is-system-running 2>/dev/null)" != stopping ] || exit $code
    lock
    [ -s "$dir/result" ] || conclude
}

conclude() {
    rm -f "$dir/reserve"
    {
        if [ $code -eq 0 ]; then say 'state Succeeded'; else say 'state Failed'; fi
        say "exit $code"
        [ ! -e "$dir/outcome" ] || head -c 65536 "$dir/outcome"
        if [ $code -ne 0 ] && ! grep -q '^reason ' "$dir/outcome" 2>/dev/null; then
            say 'reason StepFailed' "message ended with code $code: $(tail -n 1 "$dir/log" | one_line)"
        fi
    } | put "$dir/result"
    rm -f "$dir/script"   # it may hold secrets of the files that it wrote
}

# ExecStopPost: runs after every end of the unit, also after a time-out.
finish() {
    attempt "$@"
    lock
    tidy
    case ${SERVICE_RESULT:-} in
    timeout) set -- StepTimeout 'the step took longer than allowed and was stopped' ;;
    oom-kill) set -- OutOfMemory 'the kernel killed the step for lack of memory' ;;
    *) exit 0 ;;
    esac
    [ -s "$dir/result" ] || { rm -f "$dir/reserve"; say 'state Failed' "reason $1" "message $2" | put "$dir/result"; }
}

forget() {
    word "$1"
    lock
    [ ! -e "$state/identity" ] || {
        read -r installation uid <"$state/identity"
        [ "$uid" = "$1" ] || refuse IdentityMismatch "this host belongs to machine $uid of installation $installation"
    }
    mkdir -p "$state/forgotten"
    [ ! -e "$state/fence" ] || { read -r incarnation epoch uid <"$state/fence"; say "$incarnation $epoch" | put "$state/forgotten/$1"; }
    rm -f "$state/identity" "$state/fence"
    sync "$state"
    say 'state Succeeded'
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
start) start "$@" ;;
poll) attempt "$@"; if [ -d "$state" ]; then lock; fi; answer ;;
claim) lock; admit "$@"; say 'state Succeeded' ;;
forget) forget "$@" ;;
run | finish) "$command" "$@" ;;
*) refuse BadRequest 'start, poll, claim, forget' ;;
esac
