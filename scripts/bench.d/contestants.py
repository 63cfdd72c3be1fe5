"""Who is measured, and how each is called. Every command line is a row here, run by `sh -c`.

A command finds in its environment $PREFIX (s3://bucket/repository, or file://directory), either $BUCKET or $STORE (the
repository's directory), $REPOSITORY, $ENDPOINT, $SCRATCH (a directory of its own), $SEGMENTS (the directory that the WAL
comes from), $WORKERS, $CODEC (zstd or lz4) and $LEVEL, the variables of AWS with AWS_CA_BUNDLE, and those of libpq. Its
arguments are

    init                               nothing; makes the repository where one must be made
    begin                              nothing; in a data directory, before pushes or fetches: starts what is resident
    push     pg_wal/SEGMENT            in a data directory, as archive_command
    fetch    SEGMENT pg_wal/FILE       in a data directory, as restore_command
    end                                nothing; after them: stops what begin has started
    backup   DIRECTORY                 of the running server
    restore  DIRECTORY                 which is empty
    version
"""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

PGBACKREST_CONF = """[global]
repo1-s3-bucket={bucket}
repo1-s3-region=us-east-1
repo1-s3-key={key}
repo1-s3-key-secret={secret}
repo1-s3-uri-style=path
repo1-storage-ca-file={authority}
repo1-bundle=y
repo1-retention-full=9999999
start-fast=y
log-level-console=warn
log-level-file=off
log-path={directory}
lock-path={directory}
spool-path={directory}/spool
[main]
pg1-socket-path={socket}
pg1-port=5432
pg1-user=postgres
"""

CURL_CONF = """silent
show-error
fail
cacert = "{authority}"
aws-sigv4 = "aws:amz:us-east-1:s3"
user = "{key}:{secret}"
header = "x-amz-content-sha256: UNSIGNED-PAYLOAD"
"""


# What measures are about: one file or one backup, cold; one file, with something resident that is warm; a queue that
# the archiver empties; segments that recovery asks for in order; a server that replays.
SINGLE, WARM, QUEUE, ORDER, REPLAY = "single", "warm", "queue", "order", "replay"


@dataclass(frozen=True, eq=False)
class Contestant:
    """A tool, and the command line of each verb that it has."""

    name: str
    commands: dict
    kinds: tuple = (SINGLE, QUEUE, ORDER, REPLAY)  # of the measures that it takes part in
    networked: bool = True  # or it has no store, and no distance changes anything

    def can(self, verb):
        return verb in self.commands

    def takes_part(self, measure):
        near = measure.round_trip == 0
        return self.can(measure.verb) and measure.kind in self.kinds and (self.networked or near)


def resident(socket, start):
    """A command line that starts something, and returns as soon as it listens on this socket."""
    log = '"$SCRATCH/resident.log"'
    return (
        f'rm -f {socket}; {start} </dev/null >{log} 2>&1 & echo $! >"$SCRATCH/resident.pid"; n=0;'
        f" until [ -S {socket} ]; do [ $((n += 1)) -lt 500 ] || {{ cat {log}; exit 1; }}; sleep 0.01; done"
    )


STOP_RESIDENT = 'kill "$(cat "$SCRATCH/resident.pid")"'


def walden(program):
    call = f'{program} --prefix "$PREFIX"'
    return Contestant(
        "walden",
        {
            "push": f'{call} wal-push "$1"',
            "fetch": f'{call} wal-fetch "$1" "$2"',
            "backup": f'{call} backup-push "$1"',
            "restore": f'{call} backup-fetch "$1"',
            "version": f"{program} --version",
        },
    )


def walden_daemon(cold):
    """The same with its resident helper, which is for pushes: fetches are the same as without."""
    call = cold.commands["push"].removesuffix(' wal-push "$1"')
    begin = resident("pg_wal/.walden/daemon", f'{call} daemon "$PWD"')
    return Contestant("walden-daemon", cold.commands | {"begin": begin, "end": STOP_RESIDENT}, (WARM, QUEUE))


def pgbackrest(ahead=False):
    """pgBackRest with the codec, the workers and the bundles that make it comparable; or one that works ahead."""
    name = "pgbackrest-async" if ahead else "pgbackrest"
    options = "--archive-async --process-max=$WORKERS" if ahead else ""
    s3 = '--repo1-type=s3 --repo1-path="/$REPOSITORY" --repo1-s3-endpoint="${ENDPOINT#https://}"'
    place = f'$([ "$STORE" ] && echo --repo1-path="$STORE" || echo {s3})'
    codec = '--compress-type=${CODEC%d} --compress-level=$LEVEL'
    call = f'pgbackrest --config="$SCRATCH/pgbackrest.conf" {place} --stanza=main'
    commands = {
        "init": f'{call} --pg1-path="$PWD" --no-online stanza-create',
        "push": f'{call} --pg1-path="$PWD" {options} {codec} archive-push "$1"',
        "fetch": f'{call} --pg1-path="$PWD" {options} archive-get "$1" "$2"',
    }
    if not ahead:
        commands |= {
            "backup": f'{call} --pg1-path="$1" --process-max=$WORKERS {codec} --type=full backup',
            "restore": f'{call} --pg1-path="$1" --process-max=$WORKERS restore',
            "version": "pgbackrest version",
        }
    return Contestant(name, commands, (QUEUE, ORDER, REPLAY) if ahead else Contestant.kinds)


def walrus(program, daemon=False):
    """WAL-RUS with the codec and the workers that make it comparable; or as a thin client of its resident daemon."""
    variables = (
        'env ${STORE:+WALG_FILE_PREFIX="$STORE"} ${BUCKET:+WALG_S3_PREFIX="$PREFIX"} AWS_ENDPOINT="$ENDPOINT"'
        ' AWS_S3_FORCE_PATH_STYLE=true SSL_CERT_FILE="$AWS_CA_BUNDLE"'
        ' WALG_COMPRESSION_METHOD="$CODEC" WALG_COMPRESSION_LEVEL="$LEVEL"'
        ' WALG_UPLOAD_CONCURRENCY="$WORKERS" WALG_DOWNLOAD_CONCURRENCY="$WORKERS"'
    )
    call = f"{variables} {shlex.quote(str(program))}"
    version = {"version": f"{shlex.quote(str(program))} --version"}
    if not daemon:
        commands = {
            "push": f'{call} wal-push "$1"',
            "fetch": f'{call} wal-fetch "$1" "$2"',
            "backup": f'{call} backup-push --fast --full "$1"',
            "restore": f'{call} backup-fetch "$1" LATEST',
        }
        return Contestant("wal-rus", commands | version)
    # One process for the whole queue: it sends 8 segments at once.
    serve = f'PGDATA="$PWD" {call} daemon "$SCRATCH/walrus.sock"'.replace('UPLOAD_CONCURRENCY="$WORKERS"', "UPLOAD_CONCURRENCY=8")
    client = f'{shlex.quote(str(program))} daemon-client --socket "$SCRATCH/walrus.sock"'
    commands = {
        "begin": resident('"$SCRATCH/walrus.sock"', serve),
        "push": f'{client} wal-push "${{1##*/}}"',
        "fetch": f'{client} wal-fetch "$1" "$2"',
        "end": STOP_RESIDENT,
    }
    return Contestant("wal-rus-daemon", commands | version, (WARM, QUEUE, ORDER, REPLAY))


def local_copy():
    """What a replay takes when every segment lies in a directory beside it: no fetch can be faster."""
    return Contestant("cp", {"fetch": 'cp "$SEGMENTS/$1" "$2"'}, (REPLAY,), networked=False)


def stock():
    """The floor: programs that every distribution has. No digests, no checks, no durability beyond a sync."""
    pack, unpack = '"$CODEC" -q -$LEVEL', '"$CODEC" -q -d'
    call = 'curl --config "$SCRATCH/curl.conf"'
    url = '"$ENDPOINT/$BUCKET/$REPOSITORY/'
    return Contestant(
        "curl+zstd",
        {
            "push": f'{pack} <"$1" >"${{STORE:-$SCRATCH}}/segment" && if [ "$STORE" ]; then mv "$STORE/segment" "$STORE/${{1##*/}}";'
            f' else {call} -T "$SCRATCH/segment" {url}${{1##*/}}"; fi',
            "fetch": f'{call} -o "$SCRATCH/segment" {url}$1" && {unpack} <"$SCRATCH/segment" >"$2"',
            "backup": f'base="${{STORE:-$SCRATCH}}/base"; pg_basebackup -D - -Ft -X none -c fast --no-manifest | {pack} >"$base"'
            f' && if [ "$STORE" ]; then sync "$base"; else {call} -T "$base" {url}base.tar"; fi',
            "restore": f'if [ "$STORE" ]; then cat "$STORE/base"; else {call} {url}base.tar"; fi'
            f' | {unpack} | tar -x -C "$1" && sync -f "$1"',
            "version": "curl --version",
        },
    )


def other_tool(program):
    """Any other tool, by the variables TOOL_*; the defaults are those of the WAL-E family."""
    settings = os.environ.get("TOOL_ENV")
    prelude = f'TOOL={program}; set -a; . {Path(settings).resolve()}; set +a; ' if settings else f"TOOL={program}; "
    default = {
        "init": "true",
        "begin": "",
        "push": '"$TOOL" wal-push "$1"',
        "fetch": '"$TOOL" wal-fetch "$1" "$2"',
        "end": "",
        "backup": '"$TOOL" backup-push "$1"',
        "restore": '"$TOOL" backup-fetch "$1" LATEST',
        "version": '"$TOOL" --version',
    }
    commands = {verb: os.environ.get(f"TOOL_{verb.upper()}", text) for verb, text in default.items()}
    kinds = (WARM, QUEUE, ORDER, REPLAY) if commands["begin"] else Contestant.kinds
    return Contestant(Path(program).name, {verb: prelude + text for verb, text in commands.items() if text}, kinds)


def all_contestants(walden_program, walrus_program):
    """Those that are there: WAL-RUS if its program is given, Walden's helper if this build has one."""
    tools = [walden(walden_program)]
    if subprocess.run([walden_program, "daemon", "--help"], capture_output=True).returncode == 0:
        tools.append(walden_daemon(tools[0]))
    tools += [pgbackrest(), pgbackrest(ahead=True)]
    if walrus_program:
        tools += [walrus(walrus_program), walrus(walrus_program, daemon=True)]
    if "TOOL" in os.environ:
        tools.append(other_tool(os.environ["TOOL"]))
    return [*tools, stock(), local_copy()]


def write_settings(store, cluster, directory):
    """Writes the files that command lines refer to."""
    values = {
        "bucket": store.bucket,
        "key": store.key,
        "secret": store.secret,
        "authority": store.authority,
        "directory": directory,
        "socket": cluster.scratch,
    }
    (directory / "pgbackrest.conf").write_text(PGBACKREST_CONF.format(**values))
    (directory / "curl.conf").write_text(CURL_CONF.format(**values))


def environment(store, endpoint, cluster, directory, repository, given, local=None):
    """What a command finds in its environment; nothing of the caller's but PATH and libpq's. `given` by the caller are
    the workers, the codec and its level; `local` is the directory that is the store in place of the S3."""
    return {
        "PATH": f"{cluster.programs}:{os.environ['PATH']}",
        "PREFIX": f"file://{local}" if local else f"s3://{store.bucket}/{repository}",
        "BUCKET": "" if local else store.bucket,
        "STORE": str(local or ""),
        "REPOSITORY": repository,
        "ENDPOINT": endpoint,
        "SCRATCH": str(directory),
        "SEGMENTS": str(cluster.wal_directory / "pg_wal"),
        "WORKERS": str(given.workers),
        "CODEC": given.codec,
        "LEVEL": str(given.level),
        "WALDEN_WAL_COMPRESSION": str(given.level),
        "WALDEN_BACKUP_COMPRESSION": str(given.level),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_CA_BUNDLE": str(store.authority),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": store.key,
        "AWS_SECRET_ACCESS_KEY": store.secret,
        "AWS_EC2_METADATA_DISABLED": "true",
    } | {name: cluster.environment[name] for name in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"]}
