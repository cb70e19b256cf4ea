# Files are staged beside their place, checked, validated all together, and only then renamed: all or nothing as far
# as validation goes. What is to be reloaded is written down before the rename, so that a step that dies in between
# still reloads when it runs again.
pending=$state/pending
changed='' staged_files=''
new_of() { printf '%s/.%s.fleet-new' "${1%/*}" "${1##*/}"; }

# The way to a file must not be in other people's hands: each folder real or a link of root's, none open to all.
safe_way() {
    way=''
    rest=${1#/}
    while [ "${rest#*/}" != "$rest" ]; do
        way=$way/${rest%%/*}
        rest=${rest#*/}
        if [ -L "$way" ] && [ "$(stat -c %u "$way")" != 0 ]; then fail UnsafePath "$way is a link that is not root's"; fi
        if [ -e "$way" ]; then
            [ -d "$way" ] || fail UnsafePath "$way is not a folder"
            case $(stat -L -c %a "$way") in *[2367]) fail UnsafePath "$way may be changed by everybody" ;; esac
        fi
    done
}

# stage_file PATH MODE OWNER SHA256 < content
stage_file() {
    path=$1
    if [ -f "$path" ] && [ ! -L "$path" ] && [ "$(sum_of "$path")" = "$4" ] &&
        [ "$(stat -c '%a %U:%G' "$path")" = "${2#0} $3" ]; then cat >/dev/null; return; fi
    safe_way "$path"
    [ ! -d "$path" ] || [ -L "$path" ] || fail WriteFailed "$path is a folder"
    mkdir -p "${path%/*}" || fail WriteFailed "cannot make ${path%/*}"
    new=$(new_of "$path")
    rm -f "$new"
    staged_files="$staged_files
$new"
    ( set -C; umask 077; cat >"$new" ) && [ "$(sum_of "$new")" = "$4" ] || {
        if full "${path%/*}"; then drop; fail DiskFull "no room for $path"; fi
        drop
        fail WriteFailed "$path could not be written whole"
    }
    chown -h "$3" "$new" 2>/dev/null || { drop; fail OwnerUnknown "$path: no user or group $3 on this host"; }
    chmod "$2" "$new" && sync "$new" || { drop; fail WriteFailed "cannot write $path"; }
    changed="$changed
$path"
}
drop() { printf '%s\n' "$staged_files" | while read -r new; do [ -z "$new" ] || rm -f "$new"; done; }
is_changed() { printf '%s\n' "$changed" | grep -qxF -- "$1"; }

# validate PATH COMMAND...: only for a file that changes
validate() {
    path=$1; shift
    timeout 60 "$@" >"$step/words" 2>&1 </dev/null && return
    code=$?
    drop
    fail ValidateFailed "$path: ${1##*/} ended with $code: $(last_words "$step/words")"
}

note() { mkdir -p "$pending" && printf '%s\n' "$1" | put "$pending/$(printf '%s' "$1" | tr '/:' '__')" || { drop; fail DiskFull "cannot write $pending"; }; }
place() { mv -fT "$(new_of "$1")" "$1" && sync "${1%/*}" || { drop; fail WriteFailed "cannot put $1 in its place"; }; }

# daemon-reload first, then each unit once; restart is more than reload. A unit that does not run stays as it is.
settle() {
    [ -d "$pending" ] || return 0
    cat "$pending"/* 2>/dev/null | sort -u >"$step/pending"
    if [ -s "$step/pending" ]; then systemctl daemon-reload || fail ReloadFailed 'systemctl daemon-reload failed'; fi
    while read -r entry; do
        unit=${entry#*:}
        case $entry in
        restart:*) job=restart ;;
        reload:*) grep -qxF "restart:$unit" "$step/pending" && continue; job=reload-or-restart ;;
        *) continue ;;
        esac
        case $(systemctl show -p ActiveState --value "$unit") in inactive | '') continue ;; esac
        timeout 90 systemctl "$job" "$unit" 2>"$step/words" </dev/null ||
            fail ReloadFailed "systemctl $job $unit: $(last_words "$step/words")"
        fact "${job%%-*}ed:$unit" true
    done <"$step/pending"
    rm -rf "$pending"
}

finish_files() {
    settle
    count=$(printf '%s\n' "$changed" | grep -c /)
    fact changed "$count"
    fact changedFiles "$(printf '%s' "$changed" | one_line)"
    done_with "$count files changed"
}
