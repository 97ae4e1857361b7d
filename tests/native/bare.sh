#!/usr/bin/env bash
# Runs the folder of `make native-package` in a Debian that debootstrap makes, with nothing in it but the packages that every
# Debian has: no Python, no OpenVINO, no compiler. Two programs classify a cell there: the folder's bin/classify, and the same
# source as a user builds it against the folder, by pkg-config. Needs debootstrap, pkg-config and root.
#     bare.sh PACKAGE CELL.ppm WANTED       WANTED: what must be said of the cell, such as 'all 0.9123'
# BARE_MIRROR: where Debian's packages come from; by default where this machine's come from.
set -euo pipefail
package=$(realpath "$1") cell=$(realpath "$2") wanted=$3
root=${BARE_ROOT:-$(dirname "$0")/../../.cache/native-bare}
if [ ! -e "$root/made" ]; then
    rm -rf "$root" && mkdir -p "$root"
    debootstrap --variant=minbase bookworm "$root/debian" ${BARE_MIRROR:+"$BARE_MIRROR"} > "$root/debootstrap.log"
    touch "$root/made"
fi
debian=$(realpath "$root/debian")
rm -rf "$debian/opt/blastscope" && cp -r "$package" "$debian/opt/blastscope"
cp "$cell" "$debian/opt/cell.ppm"
PKG_CONFIG_PATH="$package/lib/pkgconfig" sh -c 'cc "$0" -o "$1" $(pkg-config --cflags --libs blastscope) -Wl,-rpath,/opt/blastscope/lib' \
    "$package/examples/classify.c" "$debian/opt/classify"
unshare --mount --pid --fork chroot "$debian" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root sh -c '
    set -eu
    mount -t proc proc /proc && mount -t sysfs sysfs /sys
    ! command -v python3 python cc > /dev/null || { echo "this Debian is not bare" >&2; exit 1; }
    rm -rf /root/.cache
    ! ldd /opt/blastscope/lib/*.so* | grep "not found"
    for program in /opt/blastscope/bin/classify /opt/classify; do
        said=$("$program" /opt/blastscope/shipped /opt/cell.ppm)
        [ "$said" = "$0" ] || { echo "$program said $said, not $0" >&2; exit 1; }
        echo "$program: $said"
    done
    ls /root/.cache/blastscope/engines' "$wanted"
