# dpkg and apt, without repositories: only what is on this disk counts.
apt() {
    mkdir -p "$scratch/lists/partial" "$scratch/archives/partial"
    command apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$scratch/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Dir::Cache::Archives="$scratch/archives" -o APT::Sandbox::User=root \
        -o DPkg::Lock::Timeout=10 -o APT::Install-Recommends=0 -o APT::AutoRemove::RecommendsImportant=1 \
        -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef \
        -o APT::Get::AllowUnauthenticated=1 "$@"
}
deb_state() { dpkg-query -W -f '${Status}' -- "$1" 2>/dev/null; }
deb_version() { dpkg-query -W -f '${Version}' -- "$1" 2>/dev/null; }

# What a simulated run would change besides the package itself.
others() {
    sed -n 's/^\(Inst\|Remv\|Purg\) \([^ :]*\)[^ ]* .*/\1 \2/p' "$scratch/words" | grep -vxE "(Inst|Remv|Purg) $(printf '%s' "$1" | sed 's/[.+]/\\&/g')" |
        sed 's/^Inst /install or upgrade /; s/^Remv /remove /; s/^Purg /purge /' | tr '\n' ',' | sed 's/,$//; s/,/, /g'
}

require_deb() {
    command -v dpkg >/dev/null && [ -d /var/lib/dpkg/info ] || fail ForeignFormat 'this host has no dpkg database'
    command -v apt-get >/dev/null || fail ForeignFormat 'this host has no apt-get'
}

install_deb() {
    require_deb
    scratch
    staged deb
    real=$(dpkg-deb -f "$artifact" Package 2>"$scratch/words") && version=$(dpkg-deb -f "$artifact" Version) && [ -n "$real" ] ||
        fail ArtifactUnreadable "$artifact: $(last_words "$scratch/words" 1)"
    architecture=$(dpkg-deb -f "$artifact" Architecture)
    { echo all; dpkg --print-architecture; dpkg --print-foreign-architectures; } | grep -qxF "$architecture" ||
        fail ArchitectureMismatch "$real is built for $architecture, this host is $(dpkg --print-architecture)"
    same_package "$real"
    fact installedPackage "$real"
    fact previousVersion "$(deb_version "$real")"
    wait_for_lock
    deny_services
    configure_pending "$real"
    if [ "$(deb_state "$real") $(deb_version "$real")" = "install ok installed $version" ] && [ "$again" = 0 ]; then
        write_ledger deb "$real" "$version"
        fact installedVersion "$version"
        fact unchanged true
        done_with "$real $version is already installed"
    fi
    # apt refuses a held package by itself; saying so first names the person's hold instead of an error.
    case $(deb_state "$real") in hold*) fail PackageHeldOnHost "$real is held on this host (apt-mark hold)" ;; esac
    set -- install --allow-downgrades --reinstall "$artifact"
    quietly apt -s "$@" || explain DependenciesMissing "$real $version cannot be installed alone"
    more=$(others "$real")
    [ -z "$more" ] || fail WouldChangeOthers "installing $real $version would also $more"
    quietly apt -y --no-remove "$@" || explain InstallFailed "$real $version"
    [ "$(deb_state "$real") $(deb_version "$real")" = "install ok installed $version" ] ||
        fail InstallFailed "$real is '$(deb_state "$real")' at $(deb_version "$real"), not installed at $version"
    write_ledger deb "$real" "$version"
    fact installedVersion "$version"
    done_with "$real $version is installed"
}

remove_deb() {
    require_deb
    scratch
    real=$(ledger_of package)
    fact previousVersion "$(deb_version "$real")"
    wait_for_lock
    deny_services
    configure_pending "$real"
    case $(deb_state "$real") in
    '' | *' config-files' | *' not-installed') ;;
    hold*) fail PackageHeldOnHost "$real is held on this host (apt-mark hold)" ;;
    *)
        quietly apt -s remove "$real" || explain RemoveFailed "$real"
        more=$(others "$real")
        [ -z "$more" ] || fail WouldChangeOthers "removing $real would also $more"
        quietly apt -y remove "$real" || explain RemoveFailed "$real"
        case $(deb_state "$real") in *' installed') fail RemoveFailed "$real is still installed" ;; esac ;;
    esac
    rm -f "$state/package/$package"
    done_with "$real is removed"
}
