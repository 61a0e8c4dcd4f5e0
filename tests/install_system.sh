#!/bin/sh
# Installs the Debian packages named as arguments where their programs are missing; does nothing elsewhere.
set -eu
missing=""
for package in "$@"; do
    case "$package" in
        mosquitto) PATH="$PATH:/usr/sbin" command -v mosquitto >/dev/null || missing="$missing mosquitto" ;;
        postgresql) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql" ;;
        chromium) command -v chromium >/dev/null || missing="$missing chromium fonts-noto-cjk" ;;
        e2fsprogs) PATH="$PATH:/usr/sbin:/sbin" command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs" ;;
        strace | mount) command -v "$package" >/dev/null || missing="$missing $package" ;;
        kubernetes-client) command -v kubectl >/dev/null || missing="$missing kubernetes-client" ;;
        *) dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package" ;;
    esac
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "please install:$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # the list is meant to be split
apt-get install -y -qq --no-install-recommends $missing >/dev/null
