"""What is measured: each measure prepares, runs one command (or one after the other), and checks what came of it."""

import filecmp
import os
import shutil
from dataclasses import dataclass

from contestants import environment
from meter import Command, Failed
from servers import look_like_a_data_directory


@dataclass(frozen=True)
class Measure:
    """One row of the table for each contestant that has the verb."""

    name: str
    verb: str
    title: str
    large: bool = False  # takes long, so it is repeated less often
    queue: bool = False  # many segments wait, so that working ahead pays


MEASURES = [
    Measure("start", "version", "start-up: print the version"),
    Measure("push-busy", "push", "push one full segment"),
    Measure("push-idle", "push", "push one segment that pg_switch_wal() ended early"),
    Measure("push-many", "push", "push {segments} full segments, one after the other", queue=True),
    Measure("fetch-one", "fetch", "fetch one full segment"),
    Measure("fetch-many", "fetch", "fetch {segments} full segments in order", queue=True),
    Measure("backup", "backup", "full backup of the running server", large=True),
    Measure("restore", "restore", "restore of that backup", large=True),
]


class Bench:
    """Carries the measures out. Repositories are never used twice for what must be new."""

    def __init__(self, meter, store, cluster, scratch, segments, workers):
        self.meter, self.store, self.cluster, self.scratch = meter, store, cluster, scratch
        self.workers = workers
        self.busy, self.idle = cluster.names("busy"), cluster.names("idle")
        self.queue = self.busy[:segments]
        self.made = set()
        self.filled = {}  # contestant -> a repository that has the whole queue
        self.backed_up = {}  # contestant -> a repository that has a backup

    def sample(self, measure, contestant, run):
        """Runs a measure once. Run 0 warms up."""
        # What was done ahead for another repository must not count as done.
        shutil.rmtree(self.scratch / "spool", ignore_errors=True)
        self.meter.account.make_directory(self.scratch / "spool")
        return getattr(self, "_" + measure.name.replace("-", "_"))(contestant, run)

    def _start(self, contestant, run):
        return self.meter.measure([self._command(contestant, "version", "none", self.scratch)])

    def _push_busy(self, contestant, run):
        return self._push(contestant, "single", [self.busy[run]])

    def _push_idle(self, contestant, run):
        return self._push(contestant, "single", [self.idle[run]])

    def _push_many(self, contestant, run):
        sample = self._push(contestant, f"queue-{run}", self.queue)
        self.filled[contestant] = f"queue-{run}"
        return sample

    def _fetch_one(self, contestant, run):
        return self._fetch(contestant, [self.queue[run * 5 % len(self.queue)]])

    def _fetch_many(self, contestant, run):
        return self._fetch(contestant, self.queue)

    def _push(self, contestant, repository, names):
        self._make(contestant, repository)
        return self.meter.measure(self._archiving(contestant, repository, names))

    def _archiving(self, contestant, repository, names):
        """What the archiver does: its marks are there for all segments that wait, and change one by one."""
        marks = self.cluster.wal_directory / "pg_wal/archive_status"
        for old in marks.iterdir():
            old.unlink()
        for name in names:
            self._touch(marks / f"{name}.ready")
        for name in names:
            yield self._command(contestant, "push", repository, self.cluster.wal_directory, f"pg_wal/{name}")
            (marks / f"{name}.ready").rename(marks / f"{name}.done")

    def _fetch(self, contestant, names):
        if contestant not in self.filled:
            self._push_many(contestant, "fill")
        target = self.scratch / "fetched"
        shutil.rmtree(target, ignore_errors=True)
        look_like_a_data_directory(self.meter.account, self.cluster.data_directory, target)
        sample = self.meter.measure(self._recovering(contestant, target, names))
        for name in names:
            if not filecmp.cmp(target / name, self.cluster.wal_directory / "pg_wal" / name, shallow=False):
                raise Failed(f"{contestant.name} fetched another {name} than it had pushed")
        return sample

    def _recovering(self, contestant, target, names):
        """What a server in recovery does, but for the replay."""
        for name in names:
            wanted = "pg_wal/RECOVERYXLOG"
            yield self._command(contestant, "fetch", self.filled[contestant], target, name, wanted)
            (target / wanted).rename(target / name)

    def _backup(self, contestant, run):
        repository = f"backup-{run}"
        self._make(contestant, repository)
        if contestant.can("push"):
            push = self._command(contestant, "push", repository, self.cluster.data_directory)
            self.cluster.archive_with(push.text, push.environment)
        command = self._command(contestant, "backup", repository, self.scratch, self.cluster.data_directory)
        os.sync()
        sample = self.meter.measure([command])
        self.cluster.archive_with("true", {})
        self.backed_up[contestant] = repository
        return sample

    def _restore(self, contestant, run):
        if contestant not in self.backed_up:
            self._backup(contestant, "restored")
        target = self.scratch / "restored"
        shutil.rmtree(target, ignore_errors=True)
        self.meter.account.make_directory(target)
        os.sync()
        sample = self.meter.measure([self._command(contestant, "restore", self.backed_up[contestant], target, target)])
        if tables(target) != tables(self.cluster.data_directory):
            raise Failed(f"{contestant.name} restored other files than it had backed up")
        shutil.rmtree(target)
        return sample

    def _make(self, contestant, repository):
        key = (contestant, repository)
        if contestant.can("init") and key not in self.made:
            self.meter.measure([self._command(contestant, "init", repository, self.cluster.wal_directory)])
        self.made.add(key)

    def _command(self, contestant, verb, repository, directory, *arguments):
        place = f"{contestant.name}-{repository}".replace("+", "-")
        known = environment(self.store, self.cluster, self.scratch, place, self.workers)
        return Command(contestant.commands[verb], arguments, directory, known)

    def _touch(self, path):
        path.touch()
        if self.meter.account.is_root:
            shutil.chown(path, self.meter.account.entry.pw_uid)


def tables(data_directory):
    """The names and sizes of the databases' files, without the caches that no backup has."""
    base = data_directory / "base"
    files = [path for path in base.rglob("*") if path.is_file() and path.name != "pg_internal.init"]
    return {str(path.relative_to(base)): path.stat().st_size for path in files}
