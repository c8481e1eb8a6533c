#!/bin/sh
# Installs what is missing to build and to test, on Debian and Ubuntu; says what it would be elsewhere.
#
#   tests/setup.sh [build] [programs] [tests] [vm]      all four, unless some are named
#
# Asks nothing. Changes nothing if nothing is missing. No service that comes with a package is started, nor will be at
# the next boot; those that were there before are left alone.
set -eu

# Each set of packages: Debian's names, Fedora's names.
build_apt='gcc libc6-dev scons pkg-config python3 libuv1-dev libjansson-dev libsodium-dev libibverbs-dev librdmacm-dev'
build_dnf='gcc glibc-devel python3-scons pkgconf-pkg-config python3 libuv-devel jansson-devel libsodium-devel rdma-core-devel'
programs_apt='redis-server redis-tools nginx-light wrk curl memcached postgresql iproute2'
programs_dnf='redis nginx wrk curl memcached postgresql-server postgresql-contrib iproute'
tests_apt='iperf3 sockperf socat libcmocka-dev python3-pytest python3-pytest-timeout clang-format clang libclang-rt-dev procps
    strace jq openbsd-inetd systemd'
tests_dnf='iperf3 sockperf socat libcmocka-devel python3-pytest python3-pytest-timeout clang-tools-extra clang compiler-rt
    procps-ng strace jq systemd libasan libubsan libtsan'
vm_apt='qemu-system-x86 busybox-static kmod cpio rdma-core ibverbs-providers ibverbs-utils rdmacm-utils perftest'
vm_dnf='qemu-system-x86-core busybox kmod cpio rdma-core libibverbs-utils librdmacm-utils perftest'

# Services that these packages bring, and that start by themselves.
services='redis-server nginx memcached postgresql iperf3'

apt= dnf=
for set in ${*:-build programs tests vm}; do
    case $set in
    build) apt="$apt $build_apt" dnf="$dnf $build_dnf" ;;
    programs) apt="$apt $programs_apt" dnf="$dnf $programs_dnf" ;;
    tests) apt="$apt $tests_apt" dnf="$dnf $tests_dnf" ;;
    vm) apt="$apt $vm_apt" dnf="$dnf $vm_dnf" ;;
    *)
        echo "setup: unknown set \"$set\"; expected build, programs, tests or vm" >&2
        exit 2
        ;;
    esac
done
# Whatever node there is will do.
case "$apt" in *iperf3*) command -v node >/dev/null || apt="$apt nodejs" dnf="$dnf nodejs" ;; esac

if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here, so nothing was checked or installed. With dnf it would be:"
    echo "    dnf install" $dnf
    exit 0
fi

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for package in $apt; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    echo "setup: packages are missing, and this is neither root nor may it use sudo without a password. Run:" >&2
    echo "    sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

new_services=
for service in $services; do
    case " $missing " in *" $service "*) new_services="$new_services $service.service" ;; esac
done
case " $missing " in *' openbsd-inetd '*) new_services="$new_services inetd.service" ;; esac

# The rule that package scripts ask before they start a service, for as long as the installation takes.
policy=/usr/sbin/policy-rc.d
kept=
scratch=$(mktemp -d)
put_back() {
    if [ -n "$kept" ]; then
        $as_root mv "$kept" "$policy"
    else
        $as_root rm -f "$policy"
    fi
    rm -rf "$scratch"
}
if [ -e "$policy" ]; then
    kept=$policy.before-setup
    $as_root mv "$policy" "$kept"
fi
trap put_back EXIT
trap 'exit 1' INT TERM HUP
printf '#!/bin/sh\nexit 101\n' >"$scratch/policy"
$as_root install -m 755 "$scratch/policy" "$policy"

echo "setup: installing$missing"
apt_get() {
    $as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}
apt_get update
apt_get install --no-install-recommends -o Dpkg::Options::=--force-confold $missing

if [ -n "$new_services" ] && command -v systemctl >/dev/null; then
    $as_root systemctl disable --quiet $new_services 2>/dev/null || true
fi
