# Fetches "$url" into the stage folder, verifies it, keeps the last two of this package and what is installed.
# Variables: package url sha256 format seconds key (1 = $scratch/key.asc and key.gpg hold the signer's key)
stage=$state/stage
if [ -n "$sha256" ]; then folder=$stage/$sha256; else folder=$stage/url-$(printf '%s' "$url" | sha256sum | head -c 64); fi
artifact=$folder/artifact.$format

# curl's and wget's words for a failure, as one reason. $1 = HTTP code or empty, $2 = kind
give_up() {
    rm -f "$artifact.part"
    case $2 in
    http) fail DownloadFailed "$url answered HTTP $1" ;;
    time) fail DownloadTimeout "$url did not arrive within $seconds s" ;;
    short) fail DownloadTruncated "the connection ended before $url was whole" ;;
    full) fail DiskFull "no room for $url: $(free_kib "$folder") KiB are free in $stage" ;;
    *) fail DownloadFailed "$url: $(last_words "$scratch/words" 2)" ;;
    esac
}

with_curl() {
    code=$(curl -sS -L --max-redirs 5 --proto '=http,https' --connect-timeout 10 --max-time "$seconds" -g \
        -o "$2" -w '%{http_code}' --url "$1" 2>"$scratch/words")
    case $? in
    0) case $code in 2??) return 0 ;; *) kind=http ;; esac ;;
    28) kind=time ;;
    18 | 56 | 92) kind=short ;;
    23) kind=other; if full "$folder"; then kind=full; fi ;;
    *) kind=other ;;
    esac
    return 1
}

with_wget() {
    timeout "$seconds" wget -S --tries=1 --timeout=20 --max-redirect=5 -O "$2" -- "$1" >"$scratch/words" 2>&1
    status=$?
    code=$(sed -n 's/^ *HTTP\/[0-9.]* \([0-9][0-9][0-9]\).*/\1/p' "$scratch/words" | tail -n 1)
    case $status:$code in
    0:*) return 0 ;;
    124:* | 143:*) kind=time ;;
    8:*) kind=http ;;
    3:*) kind=other; if full "$folder"; then kind=full; fi ;;
    4:2??) kind=short ;;
    *) kind=other; if grep -qi 'timed out' "$scratch/words"; then kind=time; fi ;;
    esac
    return 1
}

# apt's own downloader: on every Debian host, however small.
with_apt() {
    timeout "$seconds" /usr/lib/apt/apt-helper -o APT::Sandbox::User=root -o Acquire::Retries=0 \
        -o Acquire::http::Timeout=20 download-file "$1" "$2" >"$scratch/words" 2>&1
    case $? in
    0) return 0 ;;
    124) kind=time ;;
    *) kind=other code=$(sed -n 's/.*[^0-9]\([45][0-9][0-9]\)  *[A-Z].*/\1/p' "$scratch/words" | head -n 1)
       if [ -n "$code" ]; then kind=http; elif full "$folder"; then kind=full
       elif grep -qi 'timed out' "$scratch/words"; then kind=time
       elif grep -qiE 'closed the connection|error reading|unexpected end' "$scratch/words"; then kind=short; fi ;;
    esac
    return 1
}

# Asks for the size first, so that a disk is not filled only to find that it is too small.
expect_size() {
    command -v curl >/dev/null || return 0
    length=$(curl -sIL --max-redirs 5 --proto '=http,https' --connect-timeout 5 --max-time 15 -g --url "$1" 2>/dev/null |
        tr -d '\r' | sed -n 's/^[Cc]ontent-[Ll]ength: *\([0-9]*\)$/\1/p' | tail -n 1)
    [ -n "$length" ] || return 0
    [ "$(free_kib "$folder")" -gt $((length / 1024 + 16384)) ] ||
        fail DiskFull "$url has $((length / 1024)) KiB, but only $(free_kib "$folder") KiB are free in $stage"
}

fetch() {
    code='' kind=other
    case $1 in
    file://* | /*)
        place=${1#file://}
        [ -f "$place" ] || { : >"$scratch/words"; echo "$place is not a file of this host" >"$scratch/words"; return 1; }
        cp -- "$place" "$2" 2>"$scratch/words" || { if full "$folder"; then kind=full; fi; return 1; } ;;
    *)
        if command -v curl >/dev/null; then with_curl "$1" "$2"
        elif command -v wget >/dev/null; then with_wget "$1" "$2"
        elif [ -x /usr/lib/apt/apt-helper ]; then with_apt "$1" "$2"
        else fail NoDownloader 'the host has neither curl nor wget nor apt-helper; install curl'; fi ;;
    esac
}

# rpm carries its signature; other formats have a detached one beside them.
verify_signature() {
    if [ "$format" = rpm ]; then
        command -v rpmkeys >/dev/null || fail NoVerifier 'the host has no rpmkeys'
        mkdir -p "$scratch/keys"
        rpmkeys --dbpath "$scratch/keys" --import "$scratch/key.asc" >"$scratch/words" 2>&1 ||
            fail SignatureInvalid "the declared key is not readable: $(last_words "$scratch/words" 1)"
        rpmkeys --dbpath "$scratch/keys" --checksig "$1" >"$scratch/words" 2>&1 ||
            fail SignatureInvalid "$url: $(last_words "$scratch/words" 1)"
        grep -qiE 'signatures? ok|pgp' "$scratch/words" && ! grep -q 'NOT' "$scratch/words" ||
            fail SignatureInvalid "$url is not signed: $(last_words "$scratch/words" 1)"
        return
    fi
    command -v gpgv >/dev/null || fail NoVerifier 'the host has no gpgv'
    fetch "$url.asc" "$scratch/signature" || fetch "$url.sig" "$scratch/signature" ||
        fail SignatureInvalid "$url has no signature beside it (.asc or .sig)"
    gpgv --homedir "$scratch" --keyring "$scratch/key.gpg" "$scratch/signature" "$1" >"$scratch/words" 2>&1 ||
        fail SignatureInvalid "$url: $(last_words "$scratch/words" 1)"
}

# Oldest first in the index; what the ledgers name as installed stays whatever its age.
keep_two() {
    index=$stage/by-name/$package
    mkdir -p "$stage/by-name"
    { grep -vxF "${folder##*/}" "$index" 2>/dev/null; echo "${folder##*/}"; } | put "$index"
    head -n -2 "$index" | while read -r old; do
        grep -rqxF "staged $old" "$state/package" "$state/tarball" 2>/dev/null && continue
        [ "$(grep -lxF "$old" "$stage"/by-name/* | wc -l)" -gt 1 ] || rm -rf "${stage:?}/$old"
        grep -vxF "$old" "$index" | put "$index"
    done
}

mkdir -p "$folder" && chmod 0700 "$stage" || fail DiskFull "cannot make $folder"
scratch "$stage"
[ "$key" = 0 ] || write_key
if [ -f "$artifact" ] && [ "$(sum_of "$artifact")" = "$(cat "$folder/verified" 2>/dev/null)" ] && [ -n "$sha256" ]; then
    keep_two
    fact unchanged true
    done_with "$package was already staged"
fi
rm -f "$folder"/artifact.* "$folder/verified"
expect_size "$url"
fetch "$url" "$artifact.part" || give_up "$code" "$kind"
sum=$(sum_of "$artifact.part")
if [ -n "$sha256" ] && [ "$sum" != "$sha256" ]; then
    rm -rf "$folder"
    fail ChecksumMismatch "$url has sha256 $sum, declared is $sha256"
fi
if [ "$key" = 1 ]; then ( verify_signature "$artifact.part" ) || { rm -rf "$folder"; exit 1; }; fi
sync "$artifact.part" && mv "$artifact.part" "$artifact" && echo "$sum" | put "$folder/verified" || fail DiskFull "cannot write $folder"
keep_two
fact sha256 "$sum"
done_with "$package is staged"
