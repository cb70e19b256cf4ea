# Kernel parameters by whatever boot loader the host has. Variables: parameters (space-separated, ours alone).
# /var/lib/fleet/boot-parameters remembers ours, so that those of the host's owner are never taken away.
old=$(cat "$state/boot-parameters" 2>/dev/null)

with_grub_folder() {
    printf '# Written by Fleet.\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX %s"\n' "$parameters" | put /etc/default/grub.d/90-fleet.cfg ||
        fail DiskFull 'cannot write /etc/default/grub.d/90-fleet.cfg'
    update-grub >"$step/words" 2>&1 </dev/null || fail BootLoaderFailed "update-grub: $(last_words "$step/words")"
}

with_grubby() {
    grubby --update-kernel=ALL --remove-args="$old" --args="$parameters" >"$step/words" 2>&1 </dev/null ||
        fail BootLoaderFailed "grubby: $(last_words "$step/words")"
}

# Takes our old words from each append line and adds the new ones.
with_extlinux() {
    awk -v old="$old" -v new="$parameters" '
        BEGIN { count = split(old, words, " "); for (i = 1; i <= count; i++) ours[words[i]] = 1 }
        tolower($1) == "append" {
            match($0, /^[ \t]*/); line = substr($0, 1, RLENGTH) $1
            for (i = 2; i <= NF; i++) if (!($i in ours)) line = line " " $i
            print line (new == "" ? "" : " " new); next
        }
        { print }' "$1" >"$step/boot" && [ -s "$step/boot" ] && put "$1" <"$step/boot" || fail BootLoaderFailed "cannot rewrite $1"
}

if [ "$old" != "$parameters" ]; then
    extlinux=''
    for file in /boot/extlinux/extlinux.conf /extlinux.conf /boot/syslinux/syslinux.cfg; do [ ! -f "$file" ] || extlinux=$file; done
    if [ -d /etc/default/grub.d ] && command -v update-grub >/dev/null; then with_grub_folder
    elif command -v grubby >/dev/null; then with_grubby
    elif [ -n "$extlinux" ]; then with_extlinux "$extlinux"
    else fail NoBootLoader 'neither grub, grubby nor extlinux was found on this host'; fi
    printf '%s\n' "$parameters" | put "$state/boot-parameters" || fail DiskFull "cannot write $state/boot-parameters"
    fact changed true
fi
done_with 'the boot parameters are set; they count from the next boot'
