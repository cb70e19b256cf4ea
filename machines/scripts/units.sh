# Units by systemctl; each verb is idempotent and looked at afterwards.
active_state() { systemctl show -p ActiveState --value "$1" 2>/dev/null; }
known() {
    [ "$(systemctl show -p LoadState --value "$1" 2>/dev/null)" != not-found ] || fail UnitNotFound "systemd knows no unit $1"
}
control() {
    timeout 120 systemctl --no-ask-password "$@" 2>"$step/words" </dev/null || {
        shift $(($# - 1))
        fail UnitFailed "$1: $(last_words "$step/words") $(journal "$1")"
    }
}
journal() { journalctl -q --no-pager -n 3 -o cat -u "$1" 2>/dev/null | one_line; }

# A unit that starts and dies at once passes `systemctl start`; it has two seconds to show it.
settled() {
    tries=0
    while [ $tries -lt 20 ]; do
        case $(active_state "$1") in
        active) [ $tries -lt 5 ] || return 0 ;;
        activating | reloading | deactivating) ;;
        inactive) # a oneshot without RemainAfterExit ends so
            [ "$(systemctl show -p Type --value "$1")" = oneshot ] && [ "$(systemctl show -p Result --value "$1")" = success ] && return 0
            break ;;
        *) break ;;
        esac
        sleep 0.2
        tries=$((tries + 1))
    done
    state_now=$(active_state "$1")
    case $state_now in active | activating) return 0 ;; esac
    fail UnitFailed "$1 is $state_now: $(journal "$1")"
}
started() { known "$1"; [ "$(active_state "$1")" = active ] || { control start "$1"; fact "started:$1" true; }; settled "$1"; }
stopped() { case $(active_state "$1") in inactive | failed | '') ;; *) control stop "$1"; fact "stopped:$1" true ;; esac; }
enabled() { known "$1"; systemctl --quiet is-enabled "$1" 2>/dev/null || control enable "$1"; }
disabled() { case $(systemctl is-enabled "$1" 2>/dev/null) in enabled | enabled-runtime | linked) control disable "$1" ;; esac; }
masked() { [ "$(systemctl is-enabled "$1" 2>/dev/null)" = masked ] || control mask "$1"; }
unmasked() { # each of both masks is taken away by a word of its own, and the lasting one hides the other
    case $(systemctl is-enabled "$1" 2>/dev/null) in masked) control unmask "$1" ;; esac
    case $(systemctl is-enabled "$1" 2>/dev/null) in masked-runtime) control unmask --runtime "$1" ;; esac
}
restarted() { known "$1"; systemctl reset-failed "$1" 2>/dev/null; control restart "$1"; settled "$1"; fact "restarted:$1" true; }
