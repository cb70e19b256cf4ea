# By the ledger: absence from it means that Fleet did not install the package, so Fleet does not remove it.
if [ -f "$state/tarball/$package/meta" ]; then remove_tarball; fi
case $(ledger_of format) in
deb) remove_deb ;;
rpm) remove_rpm ;;
esac
if dpkg-query -W -f '${Status}' -- "$package" 2>/dev/null | grep -q ' installed$' || { [ ! -d /var/lib/dpkg/info ] && rpm -q -- "$package" >/dev/null 2>&1; }; then
    fail NotInstalledByFleet "$package is installed, but Fleet did not install it"
fi
fact unchanged true
done_with "$package is not installed"
