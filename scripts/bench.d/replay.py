"""A real recovery: a copy of the base backup that fetches the WAL after it with a contestant's command, and opens."""

import re
import shlex
import shutil
import time
from datetime import datetime

from meter import Command, Failed
from servers import write_script

# Nobody connects before recovery is over.
SETTINGS = """
hot_standby = off
archive_mode = off
listen_addresses = ''
unix_socket_directories = '{scratch}'
port = 5433
log_line_prefix = '%m '
log_timezone = UTC
recovery_target_timeline = latest
restore_command = '{script} "%f" "%p"'
"""

# The server's words: that it begins, that recovery is over (it has promoted itself), that it lets clients in.
BEGINS, PROMOTED, OPEN = "starting PostgreSQL", "archive recovery complete", "database system is ready to accept"

REPLAY_SECONDS = 1800  # at most

STAMP = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC LOG:  "


class Replay:
    """One recovery in a directory of its own."""

    def __init__(self, cluster, scratch):
        self.cluster, self.scratch = cluster, scratch
        self.directory = cluster.base_backup.with_name("replayed")
        self.log = scratch / "replay.log"

    def prepare(self, fetch):
        """A data directory that will fetch with this command; of the cluster's bytes none is shared."""
        self.clean()
        self.cluster.account.run("cp", "-a", self.cluster.base_backup, self.directory)
        script = self.scratch / "restore-with"
        write_script(script, fetch.text, fetch.environment)
        with open(self.directory / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS.format(scratch=self.scratch, script=script))
        signal = self.directory / "recovery.signal"
        signal.touch()
        self.cluster.account.own(signal)

    def commands(self):
        """Starts the server, and stops it when it has opened: its processes are the meter's orphans."""
        program = shlex.quote(str(self.cluster.programs / "pg_ctl"))
        call = f'{program} -D "$PWD" -l {self.log}'
        command = lambda text: Command(text, (), self.directory, self.cluster.environment)
        yield command(f"{call} -w -t {REPLAY_SECONDS} start")
        self._wait_until_open()
        yield command(f"{call} -m immediate -w stop")

    def _wait_until_open(self):
        give_up = time.monotonic() + REPLAY_SECONDS
        while OPEN not in self.log.read_text():
            if time.monotonic() > give_up or not (self.directory / "postmaster.pid").exists():
                raise Failed(f"{self.log.read_text()[-2000:]}\nthe server that replays did not open")
            time.sleep(0.1)

    def seconds(self, names):
        """From the server's first word to the end of its recovery, before the checkpoint that follows."""
        text = self.log.read_text()
        if f'restored log file "{names[-1]}" from archive' not in text:
            raise Failed(f"{text[-2000:]}\nthe server opened before it had replayed {names[-1]}")
        return (stamp(text, PROMOTED) - stamp(text, BEGINS)).total_seconds()

    def clean(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.log.unlink(missing_ok=True)


def stamp(text, message):
    """When the server said so."""
    found = re.search(STAMP + message, text, re.MULTILINE)
    if not found:
        raise Failed(f"{text[-2000:]}\nthe server's log has no: {message}")
    return datetime.fromisoformat(found[1])
