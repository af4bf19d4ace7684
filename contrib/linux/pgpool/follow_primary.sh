#!/bin/sh
# follow_primary_command of Pgpool-II (follow_master_command up to 4.1): has another standby follow the new primary.
#
#   follow_primary_command = '.../follow_primary.sh "%d" "%h" "%p" "%D" "%m" "%H" "%M" "%P" "%r" "%R" "%N" "%S"'
#
# Pgpool-II detaches all nodes but the new primary after a failover, and calls this for each of them. A standby that waits for the
# old timeline's next segment does not look for a new timeline: it is started again, which has it follow, and attached. The
# failed primary, a streaming standby and a node that does not run are left as they are: pcp_recovery_node makes them anew.
# Status: 0, it follows, or is left alone; 1, it does not.

# shellcheck source=contrib/linux/pgpool/common.sh disable=SC2016
. "$(dirname -- "$0")/common.sh"
take_placeholders "$@"
rebuild="make it anew: pcp_recovery_node -n $node"

if [ "$node" -eq "$old_primary" ]; then
    tell LOG "node $node, the old primary, is left detached; $rebuild"
    exit 0
fi
on "$host" 30 '[ -e "$1/standby.signal" ]' "$data"
case $? in
0)
    tell LOG "node $node, a streaming standby, is left detached; $rebuild"
    exit 0
    ;;
1) ;;
*) refuse "host $host of node $node cannot be reached" ;;
esac
on "$host" 30 '"$1/pg_ctl" status -D "$2" >/dev/null && [ -e "$2/recovery.signal" ]' "$BINDIR" "$data" || {
    tell WARNING "node $node is not a running standby, and left as it is; $rebuild"
    exit 0
}

# When it starts, the history file must be in the archive, or it goes on with the old timeline. (pg_control_checkpoint() has the old
# one until the new primary's first checkpoint has ended.)
timeline=$(ask "$new_host" "$new_port" 'SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)')
case $timeline in
'' | *[!0-9A-F]*) refuse "the new primary, node $new_node, does not say its timeline" ;;
esac
history=$timeline.history
timeline=$((0x$timeline))
fetch "$host" "$(archive_of "$new_host" "$new_port")" "$history" ||
    refuse "$history has not come into the archive: node $node is left detached"

# Immediate: any other stop writes down what was replayed, be it past the point where the new timeline began.
on "$host" "$FOLLOW_TIMEOUT" '
    BINDIR=$1 DATA=$2
    "$BINDIR/pg_ctl" stop -D "$DATA" -m immediate -w -s || exit 4
    '"$START"'
    gone=0
    until "$BINDIR/psql" -X -A -t -q -w -h "$3" -p "$4" -U "$5" -d postgres -c "SELECT 1" >/dev/null 2>&1; do
        # A server that was told to start a moment ago is not known yet.
        "$BINDIR/pg_ctl" status -D "$DATA" >/dev/null || gone=$((gone + 1))
        [ "$gone" -lt 10 ] || exit 3
        sleep 1
    done' "$BINDIR" "$data" "$host" "$port" "$SUPERUSER" ||
    refuse "node $node did not come up on timeline $timeline, its log says why; $rebuild"
attempt 60 pcp_attach_node -w -h "$PCP_HOST" -p "$PCP_PORT" -U "$PCP_USER" -n "$node" ||
    refuse "node $node follows timeline $timeline, and could not be attached: pcp_attach_node -n $node"
tell LOG "node $node follows node $new_node, on timeline $timeline, and is attached"
exit 0
