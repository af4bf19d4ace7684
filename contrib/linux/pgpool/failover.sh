#!/bin/sh
# failover_command of Pgpool-II: brings up the standby that takes the place of a failed primary.
#
#   failover_command = '.../failover.sh "%d" "%h" "%p" "%D" "%m" "%H" "%M" "%P" "%r" "%R" "%N" "%S"'
#
# In this order: is there anything to promote; may it be (ARBITRATE); the old primary is stopped, and looked at (FENCE); the standby
# is triggered; it takes writes. Whatever is not certain on the way means: no failover, and a person is told. It can be called
# again at any time. Status: 0, done, or nothing to do; 1, refused, or the standby does not take writes. Pgpool-II ignores it.

# shellcheck source=contrib/linux/pgpool/common.sh disable=SC2016
. "$(dirname -- "$0")/common.sh"

# One call at a time on this machine: a second one finds what the first has made of it, and does not fence what is being fenced.
# -o: what a command here leaves behind does not keep the lock.
if [ -z "${PYSTANDBY_FAILOVER_LOCKED-}" ]; then
    PYSTANDBY_FAILOVER_LOCKED=yes flock -o -w "$((2 * PROMOTE_TIMEOUT + 600))" -E 75 "$0" sh "$0" "$@"
    status=$?
    [ "$status" -le 1 ] || refuse "another call has not ended, or the failover was interrupted (status $status)"
    exit "$status"
fi
unset PYSTANDBY_FAILOVER_LOCKED
take_placeholders "$@"
began=$(date +%s)

# Is there anything to promote?

if [ "$new_node" -lt 0 ]; then
    tell WARNING "node $node went down, and no node is left: nothing to promote"
    exit 0
fi
if [ "$old_primary" -lt 0 ]; then
    # native_replication, where each node takes writes; or Pgpool-II knew of no primary, and which one to promote is not for it to say.
    tell WARNING "node $node went down, and there was no primary: nothing to promote"
    exit 0
fi
if [ "$node" -ne "$old_primary" ]; then
    tell WARNING "node $node, a standby, went down: nothing to promote"
    exit 0
fi
recovering=$(ask "$new_host" "$new_port" 'SELECT pg_is_in_recovery()')
case $recovering in
t) ;;
f)
    # A second call; or a trigger file that would wait there for the next standby made from it.
    tell WARNING "node $new_node takes writes already: nothing to promote"
    exit 0
    ;;
*) refuse "node $new_node does not say whether it is in recovery: no failover" ;;
esac

# What is wrong with it is better known before the old primary is gone.
on "$new_host" 30 '[ -e "$1/standby.signal" ]' "$new_data"
case $? in
0) streaming=yes ;;
1)
    streaming=no
    on "$new_host" 60 'exec "$1" trigger smart --dry-run --pgdata "$2" --username "$3"' "$PYSTANDBY" "$new_data" "$SUPERUSER" || {
        [ "$(ask "$new_host" "$new_port" 'SELECT pg_is_in_recovery()')" = f ] ||
            refuse "node $new_node could not be triggered: no failover"
        # Another call was quicker.
        tell WARNING "node $new_node takes writes already: nothing to promote"
        exit 0
    }
    ;;
*) refuse "host $new_host of node $new_node cannot be reached: no failover" ;;
esac

# May it be?

export FAILED_NODE="$node" FAILED_HOST="$host" FAILED_PORT="$port" FAILED_DATA="$data"
export NEW_NODE="$new_node" NEW_HOST="$new_host" NEW_PORT="$new_port" NEW_DATA="$new_data"
export BINDIR PYSTANDBY

if [ -z "$ARBITRATE" ] || [ -z "$FENCE" ]; then
    refuse "the primary, node $node, went down: ARBITRATE and FENCE are not both set, so this only tells: no failover"
fi
attempt "$ARBITRATE_TIMEOUT" sh -c "$ARBITRATE"
status=$?
[ "$status" -eq 0 ] || refuse "the primary, node $node, went down, and ARBITRATE does not allow a failover (status $status)"

# The old primary

attempt "$FENCE_TIMEOUT" sh -c "$FENCE"
status=$?
[ "$status" -eq 0 ] || refuse "the old primary, node $node, is not known to be stopped (FENCE, status $status): no failover"
timeout -k 5 20 "$BINDIR/pg_isready" -q -h "$host" -p "$port" -t 5
status=$?
case $status in
2) ;; # no answer
0 | 1) refuse "the old primary, node $node, still answers after FENCE: no failover" ;;
*) refuse "it is not known whether the old primary, node $node, answers after FENCE (pg_isready, status $status): no failover" ;;
esac

# The new one

if [ "$streaming" = yes ]; then
    on "$new_host" "$((PROMOTE_TIMEOUT + 30))" 'exec "$1/pg_ctl" promote -D "$2" -w -t "$3" -s' \
        "$BINDIR" "$new_data" "$PROMOTE_TIMEOUT"
else
    # Waits until it takes writes, and has it make the checkpoint without which archive_timeout would sleep.
    on "$new_host" "$((2 * PROMOTE_TIMEOUT + 60))" 'exec "$1" trigger smart --pgdata "$2" --wait "$3" --username "$4"' \
        "$PYSTANDBY" "$new_data" "$PROMOTE_TIMEOUT" "$SUPERUSER"
fi
status=$?
recovering=$(ask "$new_host" "$new_port" 'SELECT pg_is_in_recovery()')
if [ "$recovering" != f ]; then
    refuse "node $new_node does not take writes (status $status); the old primary, node $node, is stopped"
fi
tell LOG "node $new_node takes writes $(($(date +%s) - began)) seconds after the call; the old primary was node $node"
if [ "$streaming" = yes ]; then
    # For archive_timeout, too. It may take long, and no client has to wait for it.
    (ask "$new_host" "$new_port" CHECKPOINT 3600 >/dev/null || say WARNING "no checkpoint was made on node $new_node") &
fi
exit 0
