#!/bin/sh
# Reserves hugepages of 2 MB beside those of others, and gives them back: hugepages start|stop. HUGEPAGES says how many.
set -eu
pages=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
added=/run/sluice-hugepages
wanted=${HUGEPAGES:-0}

case ${1:-} in
start)
    [ "$wanted" -gt 0 ] || exit 0
    before=$(cat "$pages")
    echo $((before + wanted)) >"$pages"
    got=$(($(cat "$pages") - before))
    echo "$got" >"$added"
    [ "$got" -ge "$wanted" ] || echo "hugepages: $got of $wanted were to be had; reserve them at boot (hugepages=$wanted)" >&2
    ;;
stop)
    [ -e "$added" ] || exit 0
    echo $(($(cat "$pages") - $(cat "$added"))) >"$pages"
    rm -f "$added"
    ;;
*)
    echo "usage: hugepages start|stop" >&2
    exit 2
    ;;
esac
