# rpm, by itself: never --nodeps or --force, no repositories.
require_rpm() {
    command -v rpm >/dev/null && [ ! -d /var/lib/dpkg/info ] || fail ForeignFormat 'this host does not keep an rpm database'
}
# Version as observe.py reads it: "[epoch:]version-release", the epoch only when it is not 0.
rpm_versions() { rpm -q --qf '%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n' -- "$1" 2>/dev/null | grep -v 'is not installed' | sed 's/^0://'; }
has_rpm() { rpm_versions "$1" | grep -qxF "$2"; }

install_rpm() {
    require_rpm
    scratch
    staged rpm
    set -- $(rpm -qp --nosignature --qf '%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}' "$artifact" 2>"$scratch/words")
    [ $# -eq 3 ] || fail ArtifactUnreadable "$artifact: $(last_words "$scratch/words" 1)"
    real=$1 version=${2#0:}
    same_package "$real"
    fact installedPackage "$real"
    fact previousVersion "$(rpm_versions "$real" | tail -n 1)"
    wait_for_lock
    if has_rpm "$real" "$version" && [ "$again" = 0 ]; then
        write_ledger rpm "$real" "$version"
        fact installedVersion "$version"
        fact unchanged true
        done_with "$real $version is already installed"
    fi
    # -U would silently erase what the package obsoletes.
    if [ "$kernel" = 0 ]; then
        more=$(rpm -qp --nosignature --obsoletes "$artifact" 2>/dev/null | while read -r old _; do
            [ "$old" = "$real" ] || rpm -q --qf '%{NAME} ' -- "$old" 2>/dev/null | grep -v 'is not installed'
        done)
        [ -z "$more" ] || fail WouldChangeOthers "installing $real $version would also remove $more"
    fi
    if [ "$kernel" = 1 ]; then set -- -i; else set -- -U --oldpackage; fi
    [ "$again" = 0 ] || set -- "$@" --replacepkgs
    quietly rpm "$@" --test -- "$artifact" || {
        grep -qi 'architecture' "$scratch/words" && fail ArchitectureMismatch "$(last_words "$scratch/words" 2)"
        grep -qi 'failed dependencies' "$scratch/words" && explain DependenciesMissing "$real $version cannot be installed alone"
        explain InstallFailed "$real $version"
    }
    quietly rpm "$@" -- "$artifact" || explain InstallFailed "$real $version"
    has_rpm "$real" "$version" || fail InstallFailed "$real is at $(rpm_versions "$real" | one_line), not at $version"
    write_ledger rpm "$real" "$version"
    fact installedVersion "$version"
    done_with "$real $version is installed"
}

remove_rpm() {
    require_rpm
    scratch
    real=$(ledger_of package) version=$(ledger_of version)
    fact previousVersion "$(rpm_versions "$real" | tail -n 1)"
    wait_for_lock
    if rpm -q -- "$real" >/dev/null 2>&1; then
        # Of a kernel only the version that Fleet installed goes.
        target=$real
        if has_rpm "$real" "$version"; then target=$real-${version#*:}; fi
        quietly rpm -e --test -- "$target" || {
            grep -qi 'failed dependencies' "$scratch/words" && fail WouldChangeOthers "others need $real: $(last_words "$scratch/words" 4)"
            explain RemoveFailed "$real"
        }
        quietly rpm -e -- "$target" || explain RemoveFailed "$real"
    fi
    rm -f "$state/package/$package"
    done_with "$real is removed"
}
