"""What is measured: each measure prepares, runs one command (or one after the other), and checks what came of it."""

import dataclasses
import filecmp
import os
import shutil
import time
from dataclasses import dataclass

from callers import archiver, recovery
from contestants import ORDER, QUEUE, REPLAY, SINGLE, WARM, environment
from meter import Command, Failed
from replay import Replay
from servers import look_like_a_data_directory

# SeaweedFS has 12.5 GB here. It starts over, empty, before a measure that finds more than this in it.
STORE_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Measure:
    """One row of the table for each contestant that has the verb."""

    name: str
    verb: str
    title: str
    act: str  # the method of Bench that carries it out
    kind: str = SINGLE
    segments: int = 0
    round_trip: float = 0  # milliseconds between the contestant and the store
    large: bool = False  # takes long, so it is repeated less often
    local: bool = False  # the store is a directory


def all_measures(segments, round_trips, pace):
    """Every measure, for these lengths of the queue, these round trips, and a replay of `pace` ms a segment."""
    near = [
        Measure("start", "version", "start-up: print the version", "start"),
        Measure("push-idle", "push", "push one segment that pg_switch_wal() ended early", "push_idle"),
    ]
    backups = [
        Measure("backup", "backup", "full backup of the running server", "backup", large=True),
        Measure("restore", "restore", "restore of that backup", "restore", large=True),
        Measure("backup-local", "backup", "full backup into a directory", "backup", large=True, local=True),
        Measure("restore-local", "restore", "restore from that directory", "restore", large=True, local=True),
    ]
    few = segments[0]
    rows = [
        ("push-busy", "push", "push one full segment", "push_busy", SINGLE, 0),
        ("push-warm", "push", "push one full segment with a resident process that has pushed one", "push_warm", WARM, 0),
    ]
    rows += [(f"push-many-{many}", "push", f"the archiver empties a queue of {many}", "push_many", QUEUE, many) for many in segments]
    rows += [
        ("fetch-one", "fetch", "fetch one full segment", "fetch_one", SINGLE, few),
        (f"fetch-many-{few}", "fetch", f"fetch {few} full segments in order", "fetch_many", ORDER, few),
        (f"fetch-paced-{few}", "fetch", f"fetch {few} in order, {pace:g} ms of replay after each", "fetch_paced", ORDER, few),
        (f"replay-{few}", "fetch", f"a server replays {few} segments and opens", "replay", REPLAY, few),
    ]
    far = [at_distance(*row, round_trip) for row in rows for round_trip in round_trips]
    return near + far + backups


def at_distance(name, verb, title, act, kind, segments, round_trip):
    if round_trip:
        name, title = f"{name}-{round_trip:g}ms", f"{title}, {round_trip:g} ms away"
    return Measure(name, verb, title, act, kind, segments, round_trip, large=kind not in (SINGLE, WARM))


class Bench:
    """Carries the measures out. Repositories are never used twice for what must be new."""

    def __init__(self, meter, store, distance, cluster, scratch, given):
        self.meter, self.store, self.distance, self.cluster, self.scratch = meter, store, distance, cluster, scratch
        self.given = given
        self.lead, self.busy, self.idle = (cluster.names(kind) for kind in ["lead", "busy", "idle"])
        self.pushing = cluster.wal_directory.with_name("pushing")  # beside the WAL, for links
        self._forget()

    def _forget(self):
        self.stored = 0  # bytes
        self.made = set()  # contestants and their repositories
        self.filled = {}  # contestant, segments -> a repository that has them and those that lead to them
        self.backed_up = {}  # contestant, whether in a directory -> a repository that has a backup

    def sample(self, measure, contestant, run):
        """Runs a measure once. Run 0 warms up."""
        if self.stored > STORE_BYTES:
            with self.meter.orphans_let_go():
                self.store.start_over()
            self._forget()
        # What was done ahead for another repository must not count as done.
        shutil.rmtree(self.scratch / "spool", ignore_errors=True)
        self.meter.account.make_directory(self.scratch / "spool")
        return getattr(self, "_" + measure.act)(measure, contestant, run)

    def cold_calls(self, contestant, verb, count):
        """So many pushes or fetches as commands, each of another segment, that find nothing prepared."""
        measure, names = Measure(verb, verb, "", "", segments=count), self.busy[:count]
        directory = self._data_directory(self.pushing)
        if verb == "fetch":
            repository = self._fill(measure, contestant)
            directory = self._data_directory(self.scratch / "fetched")
            arguments = [(name, f"pg_wal/{name}") for name in names]
        else:
            repository = "profiled"
            self._make(measure, contestant, repository)
            for name in names:
                self._link(name, directory)
            arguments = [(f"pg_wal/{name}",) for name in names]
        return [self._command(measure, contestant, verb, repository, directory, *words) for words in arguments]

    def _start(self, measure, contestant, run):
        return self._measure([self._command(measure, contestant, "version", "none", self.scratch)])

    def _push_busy(self, measure, contestant, run):
        return self._push(measure, contestant, f"single-{measure.round_trip:g}", [self.busy[run]])

    def _push_idle(self, measure, contestant, run):
        return self._push(measure, contestant, "idle", [self.idle[run]])

    def _push_warm(self, measure, contestant, run):
        return self._push(measure, contestant, f"warm-{measure.round_trip:g}-{run}", [self.busy[run]], self.busy[-1])

    def _push_many(self, measure, contestant, run):
        repository = f"queue-{measure.segments}-{measure.round_trip:g}-{run}"
        names = self.busy[: measure.segments]
        sample = self._push(measure, contestant, repository, names)
        # Not as a recovery does: nobody should fetch ahead now, and be waited for.
        some = sorted({names[0], names[len(names) // 2], names[-1]})
        self._fetch(self._near(measure), contestant, repository, some, recovers=False)
        return sample

    def _push(self, measure, contestant, repository, names, before=None):
        """Pushes these segments as the archiver does, from a new data directory that has nothing else.

        What is resident has pushed the segment `before` then, if one is given.
        """
        self._make(measure, contestant, repository)
        directory = self._data_directory(self.pushing)
        for name in names:
            self._link(name, directory)
            self._touch(directory / f"pg_wal/archive_status/{name}.ready")
        command = lambda path: self._command(measure, contestant, "push", repository, directory, path)
        resident = self._resident(measure, contestant, repository, directory)
        if before:
            self._link(before, directory)
            begin, push = resident[0], command(f"pg_wal/{before}")
            resident[0] = dataclasses.replace(push, text=f"{begin.text}\n{push.text}")
        sample = self._measure(archiver(directory / "pg_wal", command), *resident)
        shutil.rmtree(directory)
        return sample

    def _fetch_one(self, measure, contestant, run):
        name = self.busy[run * 5 % measure.segments]
        return self._fetch(measure, contestant, self._fill(measure, contestant), [name])

    def _fetch_many(self, measure, contestant, run):
        return self._fetch(measure, contestant, self._fill(measure, contestant), self.busy[: measure.segments])

    def _fetch_paced(self, measure, contestant, run):
        repository, waited = self._fill(measure, contestant), []
        names = self.busy[: measure.segments]
        sample = self._fetch(measure, contestant, repository, names, self.given.replay_ms / 1000, waited)
        return dataclasses.replace(sample, waits=len(waited), waited=sum(waited))

    def _fetch(self, measure, contestant, repository, names, pace=0.0, waited=None, recovers=True):
        target = self._data_directory(self.scratch / "fetched")
        if recovers:
            self._touch(target / "recovery.signal")
        command = lambda *words: self._command(measure, contestant, "fetch", repository, target, *words)
        commands = recovery(target / "pg_wal", names, command, pace, waited)
        sample = self._measure(commands, *self._resident(measure, contestant, repository, target))
        for name in names:
            if not filecmp.cmp(target / "pg_wal" / name, self.cluster.wal_directory / "pg_wal" / name, shallow=False):
                raise Failed(f"{contestant.name} fetched another {name} than it had pushed")
        shutil.rmtree(target)
        return sample

    def _fill(self, measure, contestant):
        """A repository that has what a fetch or a replay of so many segments needs."""
        key = (contestant, measure.segments)
        if key not in self.filled:
            repository = f"filled-{measure.segments}"
            if contestant.can("push"):
                self._push(self._near(measure), contestant, repository, self.lead + self.busy[: measure.segments])
            self.filled[key] = repository
        return self.filled[key]

    def _replay(self, measure, contestant, run):
        replay = Replay(self.cluster, self.scratch)
        repository = self._fill(measure, contestant)
        command = self._command(measure, contestant, "fetch", repository, replay.directory)
        replay.prepare(command)
        os.sync()
        resident = self._resident(measure, contestant, repository, replay.directory)
        sample = self._measure(replay.commands(), *resident)
        wall = replay.seconds(self.busy[: measure.segments])
        replay.clean()
        # The largest process is the server's own.
        return dataclasses.replace(sample, wall=wall, memory=0)

    def _backup(self, measure, contestant, run):
        repository = f"backup-{run}"
        self._make(measure, contestant, repository)
        if contestant.can("push"):
            push = self._command(measure, contestant, "push", repository, self.cluster.data_directory)
            self.cluster.archive_with(push.text, push.environment)
        command = self._command(measure, contestant, "backup", repository, self.scratch, self.cluster.data_directory)
        os.sync()
        sample = self._measure([command])
        self.cluster.archive_with("true", {})
        self._let_go(self.backed_up.pop((contestant, measure.local), None), measure, contestant)
        self.backed_up[contestant, measure.local] = repository
        if measure.local:
            stored = sum(file.stat().st_size for file in self._local(contestant, repository).rglob("*") if file.is_file())
            sample = dataclasses.replace(sample, sent=stored)
        return sample

    def _let_go(self, repository, measure, contestant):
        """A disk is smaller than a store."""
        if repository and measure.local:
            shutil.rmtree(self._local(contestant, repository))

    def _restore(self, measure, contestant, run):
        if (contestant, measure.local) not in self.backed_up:
            self._backup(measure, contestant, "restored")
        target = self.scratch / "restored"
        self.meter.account.make_directory(target)
        os.sync()
        # For five seconds ext4 walks around the inodes of what was removed (recently_deleted in fs/ext4/ialloc.c).
        time.sleep(6)
        repository = self.backed_up[contestant, measure.local]
        sample = self._measure([self._command(measure, contestant, "restore", repository, target, target)])
        if tables(target) != tables(self.cluster.data_directory):
            raise Failed(f"{contestant.name} restored other files than it had backed up")
        shutil.rmtree(target)
        return sample

    def _measure(self, commands, begin=None, end=None):
        sample = self.meter.measure(commands, begin, end)
        self.stored += sample.sent
        return sample

    def _make(self, measure, contestant, repository):
        key = (contestant, repository, measure.local)
        if measure.local and key not in self.made:
            self.meter.account.make_directory(self._local(contestant, repository))
        if contestant.can("init") and key not in self.made:
            directory = self.cluster.wal_directory
            self._measure([self._command(self._near(measure), contestant, "init", repository, directory)])
        self.made.add(key)

    def _local(self, contestant, repository):
        """The directory that is the store of a local measure."""
        return self.scratch / "stores" / contestant.name / repository

    def _resident(self, measure, contestant, repository, directory):
        """The commands that start and stop what the contestant has running beside its commands."""
        verbs = ["begin", "end"] if contestant.can("begin") else []
        return [self._command(measure, contestant, verb, repository, directory) for verb in verbs]

    def _command(self, measure, contestant, verb, repository, directory, *arguments):
        place = f"{contestant.name}-{repository}".replace("+", "-")
        endpoint = self.distance.endpoints[measure.round_trip]
        local = self._local(contestant, repository) if measure.local else None
        known = environment(self.store, endpoint, self.cluster, self.scratch, place, self.given, local)
        return Command(contestant.commands[verb], arguments, directory, known)

    def _near(self, measure):
        return dataclasses.replace(measure, round_trip=0)

    def _data_directory(self, path):
        shutil.rmtree(path, ignore_errors=True)
        look_like_a_data_directory(self.meter.account, self.cluster.data_directory, path)
        return path

    def _link(self, name, directory):
        os.link(self.cluster.wal_directory / "pg_wal" / name, directory / "pg_wal" / name)

    def _touch(self, path):
        path.touch()
        self.meter.account.own(path)


def tables(data_directory):
    """The names and sizes of the databases' files, without the caches that no backup has."""
    base = data_directory / "base"
    files = [path for path in base.rglob("*") if path.is_file() and path.name != "pg_internal.init"]
    return {str(path.relative_to(base)): path.stat().st_size for path in files}
