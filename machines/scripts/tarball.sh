# Tarballs live in /opt/fleet/NAME/VERSION. A link is switched to the version: the destination, or .../current.
# A destination that is a real folder (shared with others) gets copies of the files instead, each renamed into place.
# Ledger: /var/lib/fleet/tarball/NAME/{meta,manifest,seen}; meta has "declared tree link staged"; see observe.py.
ledger=$state/tarball/$package
home=$root/opt/fleet/$package
meta_of() { sed -n "s/^$1 //p" "$ledger/meta" 2>/dev/null | head -n 1; }

unpack() {
    tar -tf "$artifact" >"$scratch/names" 2>"$scratch/words" || fail ArtifactUnreadable "$artifact: $(last_words "$scratch/words" 1)"
    [ -s "$scratch/names" ] || fail ArtifactUnreadable "$artifact is empty"
    # tar prints control characters and backslashes as escapes; such names have no place in a manifest.
    bad=$(grep -m1 -E '^/|(^|/)\.\.(/|$)|\\' "$scratch/names") && fail UnsafeArchive "$artifact has the name $bad"
    mkdir -p "$home" || fail DiskFull "cannot make $home"
    rm -rf "$home/.new"
    mkdir "$home/.new" || fail DiskFull "cannot make $home/.new"
    quietly tar -xf "$artifact" -C "$home/.new" --no-same-owner || {
        rm -rf "$home/.new"
        explain ArtifactUnreadable "$artifact"
    }
    top=$(readlink -f "$home/.new")
    find "$home/.new" -type l | while read -r link; do
        case $(readlink "$link"):$(readlink -m "$link") in /*:* ) echo "$link" ;; *:"$top"/*) ;; *) echo "$link" ;; esac
    done >"$scratch/links"
    find "$home/.new" ! -type f ! -type d ! -type l >>"$scratch/links"
    if [ -s "$scratch/links" ]; then
        rm -rf "$home/.new"
        bad=$(head -n 1 "$scratch/links")
        fail UnsafeArchive "$artifact: ${bad#"$home/.new/"} is a device or leads outside"
    fi
    chmod 0755 "$home" "$home/.new"
    ( cd "$home/.new" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum -- ) >"$scratch/manifest"
}

fingerprint() { ( cd "$1" && cut -c 67- "$scratch/manifest" | tr '\n' '\0' | xargs -0 stat -c '%n %s %Z %i %a' -- | sha256sum ); }

# The files that stand in the real folder $1 and are in the new manifest, but not in our old one.
foreign_files() {
    if [ "$(meta_of tree)" = "$1" ]; then cut -c 67- "$ledger/manifest" 2>/dev/null; fi | sort >"$scratch/ours"
    cut -c 67- "$scratch/manifest" | sort | comm -23 - "$scratch/ours" | while read -r name; do
        if [ -e "$1/$name" ] && ! cmp -s "$1/$name" "$home/$declared/$name"; then echo "$name"; fi
    done
}

copy_into() {
    foreign=$(foreign_files "$1" | head -n 3 | one_line)
    [ -z "$foreign" ] || fail WouldOverwrite "$1 has files that are not of $package: $foreign"
    cut -c 67- "$scratch/manifest" | while read -r name; do
        mkdir -p "$1/$(dirname "$name")" && cp -p "$home/$declared/$name" "$1/$name.fleet-new" &&
            mv -f "$1/$name.fleet-new" "$1/$name" || exit 1
    done || fail DiskFull "cannot write into $1"
    cut -c 67- "$scratch/manifest" | sort | comm -13 - "$scratch/ours" | while read -r name; do rm -f "$1/$name"; done
}

# The destination has moved: what the ledger knows of the old one goes.
leave_old_place() {
    old_tree=$(meta_of tree) old_link=$(meta_of link)
    if [ -n "$old_link" ] && [ "$old_link" != "$link" ] && [ "$(readlink "$old_link")" = "$old_tree" ]; then rm -f "$old_link"; fi
    case $old_tree in '' | "$home"/* | "$tree") ;; *) forget_copies "$old_tree" ;; esac
}
forget_copies() { ( cd "$1" && cut -c 67- "$ledger/manifest" | while read -r name; do rm -f "./$name"; done ); }

install_tarball() {
    scratch
    staged tarball
    fact previousVersion "$(meta_of declared)"
    unpack
    if [ -n "$destination" ] && [ -d "$destination" ] && [ ! -L "$destination" ]; then
        tree=$destination link=
    else
        tree=$home/$declared link=${destination:-$home/current}
        if [ -e "$link" ] || [ -L "$link" ]; then
            case $(readlink "$link") in "$home"/*) ;; *) fail WouldOverwrite "$link is not a link of $package" ;; esac
        fi
    fi
    if [ "$again" = 0 ] && [ "$(meta_of declared) $(meta_of tree) $(meta_of link)" = "$declared $tree $link" ] &&
        cmp -s "$scratch/manifest" "$ledger/manifest" && ( cd "$tree" && sha256sum --status -c "$scratch/manifest" ) &&
        { [ -z "$link" ] || [ "$(readlink "$link")" = "$tree" ]; }; then
        rm -rf "$home/.new"
        fact installedVersion "$declared"
        fact unchanged true
        done_with "$package $declared is already unpacked"
    fi
    rm -rf "$home/.old"
    [ ! -e "$home/$declared" ] || mv "$home/$declared" "$home/.old"
    mv "$home/.new" "$home/$declared" && rm -rf "$home/.old"
    if [ -z "$link" ]; then
        copy_into "$tree"
    else
        mkdir -p "${link%/*}" && ln -sfn "$tree" "$link.fleet-new" && mv -fT "$link.fleet-new" "$link" || fail WriteFailed "cannot switch $link"
    fi
    leave_old_place
    mkdir -p "$ledger"
    old=$(meta_of declared) older=$(meta_of previous)
    [ "$old" != "$declared" ] || old=$older
    put "$ledger/manifest" <"$scratch/manifest" && fingerprint "$tree" | put "$ledger/seen" &&
        printf '%s\n' "declared $declared" "tree $tree" "link $link" "previous $old" "staged $folder" | put "$ledger/meta" ||
        fail DiskFull "cannot write the ledger $ledger"
    # This version and the one before stay; a rollback needs no download.
    for version in "$home"/*; do
        case ${version##*/} in "$declared" | "$old" | current | '*') ;; *) rm -rf "$version" ;; esac
    done
    fact installedVersion "$declared"
    done_with "$package $declared is unpacked"
}

remove_tarball() {
    fact previousVersion "$(meta_of declared)"
    tree=$(meta_of tree) link=$(meta_of link)
    if [ -n "$link" ] && [ "$(readlink "$link")" = "$tree" ]; then rm -f "$link"; fi
    case $tree in
    '' | "$home"/*) ;;
    *) forget_copies "$tree" ;;
    esac
    rm -rf "${home:?}" "${ledger:?}"
    done_with "$package is removed"
}
