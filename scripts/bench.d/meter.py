"""What a command costs, measured from outside: whole processes, with all that they start."""

import contextlib
import ctypes
import dataclasses
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# nginx notes a request when it has sent the answer's end, which may be just after the client has read it.
SETTLE_SECONDS = 0.05

# How long what a command left running may go on. What works ahead ends by itself when nobody asks for more.
ORPHAN_SECONDS = 120

# Work for a shell, long enough for the accounting of processors.
SPIN = "n=0; while [ $n -lt 100000 ]; do n=$((n+1)); done"


@dataclass(frozen=True)
class Sample:
    """The cost of one command, or of several that ran one after the other."""

    wall: float = 0.0  # seconds from start to exit
    cpu: float = 0.0  # seconds, user and system, of all processes, with those that outlive the command
    memory: float = 0.0  # MiB resident at the peak of the largest single process
    requests: int = 0  # that the store answered
    sent: int = 0  # bytes of the bodies of requests: what is stored
    received: int = 0  # bytes of the bodies of answers
    waits: int = 0  # commands that took so long that a replay noticed
    waited: float = 0.0  # seconds that those took

    def __add__(self, other):
        return Sample(
            self.wall + other.wall,
            self.cpu + other.cpu,
            max(self.memory, other.memory),
            self.requests + other.requests,
            self.sent + other.sent,
            self.received + other.received,
            self.waits + other.waits,
            self.waited + other.waited,
        )


@dataclass(frozen=True)
class Command:
    """A shell's command line, run the way PostgreSQL runs archive_command: `sh -c`, in a data directory."""

    text: str
    arguments: tuple
    directory: Path
    environment: dict


class Failed(SystemExit):
    """A command that should have been measured did not do its work: there is nothing to compare."""


class Meter:
    """Runs commands as another user and adds up what they cost. Never decides what is run, or how often."""

    def __init__(self, time_program, account, requests_log, directory):
        self.time_program = time_program
        self.account = account
        self.requests_log = requests_log
        self.memory_file = directory / "memory"
        self.output = directory / "output"

    def adopt_orphans(self, yes=True):
        """From now on processes that outlive their parents are ours to wait for. Call it when all servers are up."""
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    @contextlib.contextmanager
    def orphans_let_go(self):
        """Within this, servers can be started that are to stay."""
        self.adopt_orphans(False)
        yield
        self.adopt_orphans()

    def check(self, directory):
        """What nothing costs here, as a sample. Fails if the work of what is left running is not counted."""
        command = lambda text: Command(text, (), directory, {"PATH": os.environ["PATH"]})
        work = self.measure([command(SPIN)])
        left = self.measure([command(f"setsid sh -c '{SPIN}' >/dev/null 2>&1 &")])
        if left.cpu < work.cpu / 2:
            raise Failed(f"what is left running is not counted: {left.cpu:.3f} s instead of {work.cpu:.3f} s")
        return min((self.measure([command(":")]) for _ in range(10)), key=lambda sample: sample.wall)

    def measure(self, commands, begin=None, end=None):
        """Runs the commands in turn. Whatever an iterator does between them is not measured.

        `begin` and `end`, before and after them, start and stop what is resident: of that, processors and memory count.
        """
        total = self._aside(begin)
        time.sleep(SETTLE_SECONDS)
        read_from = self.requests_log.stat().st_size
        try:
            for command in commands:
                total += self._run(command)
        finally:
            total += self._aside(end)
        total += self._wait_for_orphans()
        return total + self._requests_since(read_from)

    def _aside(self, command):
        return dataclasses.replace(self._run(command), wall=0.0) if command else Sample()

    def _run(self, command):
        shell = ["sh", "-c", command.text, "sh", *map(str, command.arguments)]
        # Linux counts the memory that a process had before its exec, so the command must not be a child of this Python:
        # GNU time is small, and tells the memory of its child alone.
        timed = [self.time_program, "-f", "%M", "-o", self.memory_file, *shell]
        with open(self.output, "wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                timed,
                cwd=command.directory,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **self.account.as_user(),
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said = self.output.read_text(errors="replace")[-2000:]
            raise Failed(f"{said}\nexit status {process.returncode} of: {shell[2]} {shell[4:]}")
        memory = int(self.memory_file.read_text().split()[-1]) / 1024
        return Sample(wall, usage.ru_utime + usage.ru_stime, memory)

    def _wait_for_orphans(self):
        total = Sample()
        give_up = time.monotonic() + ORPHAN_SECONDS
        while time.monotonic() < give_up:
            try:
                process, _, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return total
            if process == 0:
                time.sleep(0.01)
            else:
                total += Sample(0.0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
        raise Failed(f"something was left running for more than {ORPHAN_SECONDS} s")

    def _requests_since(self, offset):
        time.sleep(SETTLE_SECONDS)
        with open(self.requests_log) as log:
            log.seek(offset)
            rows = [line.split() for line in log]
        sent = sum(int(length) for method, length, _ in rows if method == "PUT" and length != "-")
        received = sum(int(length) for _, _, length in rows)
        return Sample(requests=len(rows), sent=sent, received=received)
