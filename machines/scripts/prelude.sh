# Beginning of every step script, after observe.sh's functions. The script runs as root inside a transient unit.
# Its last word goes to $FLEET_STEP/outcome: "fact KEY VALUE", "reason X", "message ..."; exit 0 = Succeeded.
set -u
umask 022
step=${FLEET_STEP:?}
export HOME=/root
one_line() { tr '\n\r\t' '   ' | tr -d '\000-\037' | head -c 900; }
fact() { printf 'fact %s %s\n' "$1" "$(printf '%s' "$2" | one_line)" >>"$step/outcome"; }
message() { printf 'message %s\n' "$(printf '%s' "$1" | one_line)" >>"$step/outcome"; }
fail() { printf 'reason %s\n' "$1" >>"$step/outcome"; message "$2"; exit 1; }
done_with() { message "$1"; exit 0; }
last_words() { grep -v '^[[:space:]]*$' "$1" | tail -n "${2:-3}" | one_line; }
sum_of() { sha256sum <"$1" | head -c 64; }
free_kib() { df -Pk "$1" | tail -n 1 | { read -r _ _ _ free _; echo "${free:-0}"; }; }
# Says whether a failure to write had the disk for a cause; 1 MiB is less than any package needs.
full() { [ "$(free_kib "$1")" -lt 1024 ]; }
put() { cat >"$1.new" && sync "$1.new" && mv -f "$1.new" "$1" && sync "${1%/*}"; }
scratch() { scratch=$(mktemp -d "${1:-$state}/tmp.XXXXXX") || fail DiskFull "cannot make a folder in ${1:-$state}"; }
clean_up() { [ -z "${scratch:-}" ] || rm -rf "$scratch"; }
trap clean_up EXIT
