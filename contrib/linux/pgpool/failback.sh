#!/bin/sh
# failback_command of Pgpool-II: tells that a node was attached. It decides nothing: Pgpool-II has done it already.
#
#   failback_command = '.../failback.sh "%d" "%h" "%p" "%D" "%m" "%H" "%M" "%P" "%r" "%R" "%N" "%S"'

# shellcheck source=contrib/linux/pgpool/common.sh disable=SC2016
. "$(dirname -- "$0")/common.sh"
take_placeholders "$@"

recovering=$(ask "$host" "$port" 'SELECT pg_is_in_recovery()')
case $recovering in
t) tell LOG "node $node is attached, a standby" ;;
f)
    if [ "$old_primary" -ge 0 ] && [ "$node" -ne "$old_primary" ]; then
        tell WARNING "node $node is attached, and takes writes besides the primary, node $old_primary: detach and stop it at once"
    else
        tell LOG "node $node is attached, and takes writes"
    fi
    ;;
*) tell WARNING "node $node is attached, and does not say whether it is in recovery" ;;
esac
exit 0
