# shellcheck shell=sh
# What the scripts of this folder share; each of them begins by reading it. Settings: pystandby-pgpool.conf, beside it.

# Pgpool-II leaves its listening sockets open to us: what goes on in the background would keep it from being started again.
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-

# shellcheck source=contrib/linux/pgpool/pystandby-pgpool.conf
. "$(dirname -- "$0")/pystandby-pgpool.conf"
script=$(basename -- "$0")

# say LEVEL TEXT: one line, with the time, for the log.
say() {
    line="$(date '+%Y-%m-%d %H:%M:%S %Z') [$$] $script $1:  $2"
    printf '%s\n' "$line" >&2
    if [ -n "$LOG" ]; then
        printf '%s\n' "$line" >>"$LOG"
    fi
}

# tell LEVEL TEXT: the same, and for a person. In the background: Pgpool-II lets no client in while it waits for a script.
tell() {
    say "$1" "$2"
    if [ -n "$NOTIFY" ]; then
        printf '%s\n' "$script $1:  $2" | timeout -k 5 60 sh -c "$NOTIFY" >/dev/null 2>&1 &
    fi
}

# refuse TEXT: the end of a script that does not do what it is for.
refuse() {
    tell ERROR "$1"
    exit 1
}

# log_lines FILE: each of its lines, for the log.
log_lines() {
    while IFS= read -r text || [ -n "$text" ]; do
        say LOG "  $text"
    done <"$1"
}

# scratch: makes a file for what a command says, and prints its name. Where there is no room for it either, in memory: a full disk is
# often why the primary has gone, and this may be the same machine.
scratch() {
    for folder in "${TMPDIR:-/tmp}" /dev/shm; do
        file=$(mktemp "$folder/pystandby-pgpool.XXXXXXXXXX") || continue
        head -c 65536 /dev/zero >"$file" && : >"$file" && printf '%s\n' "$file" && return
        rm -f "$file"
    done 2>/dev/null
    return 1
}

# attempt SECONDS COMMAND [WORD]...: runs it, puts what it says into the log, and ends with its status; 124 or 137 when it was out of
# time, 125 when it could not be run. What it says goes through a file: a process that it leaves behind would hold a pipe open for ever.
attempt() (
    seconds=$1
    shift
    said=$(scratch) || exit 125
    trap 'rm -f "$said"' EXIT
    timeout -k 5 "$seconds" "$@" </dev/null >"$said" 2>&1
    status=$?
    log_lines "$said"
    exit "$status"
)

# quoted WORD: the word as a shell reads it back.
quoted() {
    printf "'"
    printf '%s' "$1" | sed "s/'/'\\\\''/g"
    printf "'"
}

# on HOST SECONDS PROGRAM [WORD]...: runs a program of sh there, with the words as $1, $2 ..., as attempt does. 255: ssh failed.
on() {
    on_host=$1
    on_seconds=$2
    shift 2
    if [ "$REMOTE" = local ]; then
        on_program=$1
        shift
        attempt "$on_seconds" sh -c "$on_program" sh "$@"
        return
    fi
    # Not the login shell's business, whichever that is. Timed there as well: what is left running when ssh is ended would get in
    # the way of the next try, as a base backup does.
    on_command="exec timeout -k 5 $on_seconds sh -c $(quoted "$1") sh"
    shift
    for on_word; do
        on_command="$on_command $(quoted "$on_word")"
    done
    [ "$on_seconds" -eq 0 ] || on_seconds=$((on_seconds + 15))
    # A host that is gone, or hangs, is noticed; nobody is asked; a host key that is not known is refused.
    # shellcheck disable=SC2086  # SSH_OPTIONS are words
    attempt "$on_seconds" ssh -T -x -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=10 \
        -o ServerAliveInterval=5 -o ServerAliveCountMax=3 $SSH_OPTIONS "$SSH_USER@$on_host" "$on_command"
}

# ask HOST PORT STATEMENT [SECONDS]: what the server answers, bare. The status is psql's.
ask() (
    said=$(scratch) || exit 125
    trap 'rm -f "$said"' EXIT
    PGCONNECT_TIMEOUT=10 timeout -k 5 "${4:-30}" "$BINDIR/psql" -X -A -t -q -w -v ON_ERROR_STOP=1 \
        -h "$1" -p "$2" -U "$SUPERUSER" -d postgres -c "$3" </dev/null 2>"$said"
    status=$?
    log_lines "$said"
    exit "$status"
)

# is_number WORD: whether it is what Pgpool-II calls a node, -1 included.
is_number() {
    case ${1#-} in
    '' | *[!0-9]*) return 1 ;;
    esac
}

# take_placeholders WORD...: those of failover_command, failback_command and follow_primary_command, in the order
# %d %h %p %D %m %H %M %P %r %R %N %S; more words are only logged.
take_placeholders() {
    if [ $# -lt 10 ]; then
        refuse "called with $# words instead of %d %h %p %D %m %H %M %P %r %R and, from Pgpool-II 4.1 on, %N %S"
    fi
    node=$1 host=$2 port=$3 data=$4
    new_node=$5 new_host=$6 old_main=$7 old_primary=$8 new_port=$9
    shift 9
    new_data=$1 old_primary_host=${2-} old_primary_port=${3-}
    shift
    [ $# -eq 0 ] || shift
    [ $# -eq 0 ] || shift
    say LOG "called with %d=$node %h=$host %p=$port %D=$data %m=$new_node %H=$new_host %M=$old_main %P=$old_primary %r=$new_port \
%R=$new_data %N=$old_primary_host %S=$old_primary_port${*:+ $*}"
    for number in "$node" "$new_node" "$old_main" "$old_primary"; do
        is_number "$number" || refuse "\"$number\" is not a node: the placeholders are not in the order of pgpool.conf's sample"
    done
}

# archive_all HOST PORT: has the server there end its segment, waits until that is archived, and sets segment to its name.
archive_all() {
    # The restore point: a segment that nothing was written to would not be ended.
    ask "$1" "$2" "SELECT pg_create_restore_point('$script')" >/dev/null || refuse "the server on $1, port $2, does not answer"
    segment=$(ask "$1" "$2" 'SELECT pg_walfile_name(pg_switch_wal())') || refuse "the server on $1, port $2, does not end its segment"
    archive_tries=0
    # "C": elsewhere 00000002.history would be later than any segment of timeline 2.
    until [ "$(ask "$1" "$2" "SELECT last_archived_wal COLLATE \"C\" >= '$segment' FROM pg_stat_archiver")" = t ]; do
        archive_tries=$((archive_tries + 1))
        [ "$archive_tries" -lt "$FOLLOW_TIMEOUT" ] ||
            refuse "the server on $1, port $2, has not archived $segment: its log and pg_stat_archiver say why"
        sleep 1
    done
}

# fetch HOST ARCHIVE FILE: waits until pystandby on that host finds the file in the archive.
fetch() {
    on "$1" "$FOLLOW_TIMEOUT" '
        folder=$(mktemp -d) || exit 1
        trap "rm -rf \"$folder\"" EXIT
        trap "cat said; exit 1" HUP INT TERM
        # Not in a data directory, where it would take itself for that server'"'"'s.
        cd "$folder" || exit 1
        command -v "$1" >/dev/null || {
            echo "there is no $1"
            exit 127
        }
        until "$1" -s 1 "$2" "$3" "$folder/$3" 2>said; do
            sleep 1
        done
        cat said' "$PYSTANDBY" "$2" "$3"
}

# archive_of HOST PORT: where the server there archives to.
archive_of() {
    if [ "$CLUSTERING_MODE" = native_replication ]; then
        printf '%s\n' "$ARCHIVE/$1-$2"
    else
        printf '%s\n' "$ARCHIVE"
    fi
}

# A setting that cannot be meant is told of before anything is done: once the old primary is fenced it is too late.
for setting in ARBITRATE_TIMEOUT FENCE_TIMEOUT PROMOTE_TIMEOUT FOLLOW_TIMEOUT BACKUP_TIMEOUT; do
    value=
    eval "value=\$$setting"
    case $setting=$value in
    BACKUP_TIMEOUT=0) ;;
    *= | *=0* | *=*[!0-9]*) refuse "$setting is \"$value\": it must be a number of seconds, 1 or more" ;;
    esac
done
case $REMOTE in
local | ssh) ;;
*) refuse "REMOTE is \"$REMOTE\": it must be local or ssh" ;;
esac
case $CLUSTERING_MODE in
streaming_replication | native_replication) ;;
*) refuse "CLUSTERING_MODE is \"$CLUSTERING_MODE\": it must be streaming_replication or native_replication" ;;
esac
