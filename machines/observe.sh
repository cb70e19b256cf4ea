# What every observe asks, whatever the target wants; `observe.py` appends the rest. Reads only.
# A section begins with "@@NONCE name"; the nonce keeps a host's own words from looking like one.
umask 077
LC_ALL=C
root=${FLEET_ROOT:-}   # tests only
PATH=${FLEET_ROOT:+$root/bin:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
state=$root/var/lib/fleet
section() { printf '\n@@%s %s\n' "$nonce" "$1"; }
first() { head -c "$2" "$1" 2>/dev/null; }
# Who holds the package lock: /proc/locks has inodes, the process must really have the file open.
lock_holder() {
    for lock_file in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/rpm/.rpm.lock /usr/lib/sysimage/rpm/.rpm.lock; do
        [ -f "$lock_file" ] || continue
        inode=$(stat -L -c %i "$lock_file") || continue
        while read -r _ lock_kind _ lock_mode pid where _; do
            [ "$lock_kind $lock_mode" = 'POSIX WRITE' ] && [ "${where##*:}" = "$inode" ] || continue
            [ "$pid" -gt 1 ] 2>/dev/null || continue
            ls -l "/proc/$pid/fd" 2>/dev/null | grep -q -- " -> $(readlink -f "$lock_file")\$" || continue
            printf '%s (pid %s)\n' "$(tr -d '\000-\037' <"/proc/$pid/comm" 2>/dev/null)" "$pid"
            return
        done </proc/locks
    done
}
#END-OF-FUNCTIONS
section clock
date +%s.%N
section identity
first "$state/identity" 512
section fence
first "$state/fence" 512
section os
first /etc/os-release 8192 || first /usr/lib/os-release 8192
section kernel
uname -r
uname -m
section boot
first /proc/sys/kernel/random/boot_id 64
section cmdline
first /proc/cmdline 8192
section kept
# Fleet's own lists for the next boot; read without a process of their own.
if [ -f "$root/etc/sysctl.d/90-fleet.conf" ]; then while read -r word equals _; do [ "$equals" = = ] && echo "sysctl $word"; done <"$root/etc/sysctl.d/90-fleet.conf"; fi
if [ -f "$root/etc/modules-load.d/fleet.conf" ]; then while read -r word _; do case $word in [A-Za-z0-9]*) echo "module $word" ;; esac; done <"$root/etc/modules-load.d/fleet.conf"; fi
if [ -f "$state/boot-parameters" ]; then while read -r words; do for word in $words; do echo "boot $word"; done; done <"$state/boot-parameters"; fi
section serial
# A container sees the serial of the box around it.
[ -e /run/systemd/container ] || [ -e /.dockerenv ] || first /sys/class/dmi/id/product_serial 256
section memory
grep -E -m2 '^Mem(Total|Available):' /proc/meminfo
section cpus
nproc
section read-only
# What fstab does not say is read-only, of file systems that lie on disks.
while read -r _ mount_point mount_type mount_options _; do
    case $mount_type in ext2 | ext3 | ext4 | xfs | btrfs | f2fs) ;; *) continue ;; esac
    case $mount_point in /proc/* | /sys/* | /dev/* | /run/* | /var/lib/kubelet/* | /var/lib/containerd/* | /snap/*) continue ;; esac
    case ,$mount_options, in *,ro,*) ;; *) continue ;; esac
    grep -Eqs "^[^#][^[:space:]]*[[:space:]]+$mount_point[[:space:]]+[^[:space:]]+[[:space:]]+([^[:space:]]*,)?ro(,|[[:space:]]|\$)" "$root/etc/fstab" || printf '%s\n' "$mount_point"
done </proc/self/mounts | head -n 32
section load
first /proc/loadavg 100
section disk
df -Pk "$root/var" 2>/dev/null | tail -n 1
section state
systemctl is-system-running 2>/dev/null
section audit
if command -v dpkg >/dev/null; then timeout 5 dpkg --audit 2>&1 | head -c 4096; fi
section lock
lock_holder 2>/dev/null
section unattended
if [ -x /usr/bin/unattended-upgrade ] && systemctl --quiet is-enabled apt-daily-upgrade.timer 2>/dev/null; then
    apt-config shell on APT::Periodic::Unattended-Upgrade 2>/dev/null
fi
for timer in dnf-automatic.timer dnf-automatic-install.timer; do
    if systemctl --quiet is-active "$timer" 2>/dev/null; then printf "on='1'\n"; fi
done
