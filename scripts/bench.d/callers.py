"""Who calls the commands: PostgreSQL's archiver and its recovery, with nothing of them but the calls.

Generators of commands: what they do between two commands is what the server does, and is not measured.
"""

import time
from contextlib import suppress

# pgarch.c, NUM_FILES_PER_DIRECTORY_SCAN: so many marks are read at once.
MARKS_AT_ONCE = 64

# A fetch that hands over what lies ready takes several milliseconds, one that asks a store takes more than this. (On a
# machine so busy that an empty command takes ten, everything does.)
WAIT_SECONDS = 0.03

# So many fetches may wait before working ahead is under way.
WARM_AFTER = 8


def archiver(pg_wal, command):
    """Empties archive_status/*.ready as pgarch.c does: history files first, then by name, one command at a time."""
    marks = pg_wal / "archive_status"
    while ready := sorted((path.stem for path in marks.glob("*.ready")), key=in_order)[:MARKS_AT_ONCE]:
        for name in ready:
            mark = marks / f"{name}.ready"
            if mark.exists():  # an earlier command may have marked it done
                yield command(f"pg_wal/{name}")
                with suppress(FileNotFoundError):
                    mark.rename(mark.with_suffix(".done"))


def in_order(name):
    """pgarch.c, ready_file_comparator."""
    return (not name.endswith(".history"), name)


def recovery(pg_wal, names, command, pace=0.0, waited=None):
    """Asks for one segment after the other, and replays each for `pace` seconds.

    Appends to `waited` the seconds of every fetch that made a warm replay wait.
    """
    for at, name in enumerate(names):
        began = time.perf_counter()
        yield command(name, "pg_wal/RECOVERYXLOG")
        took = time.perf_counter() - began
        if waited is not None and at >= WARM_AFTER and took > WAIT_SECONDS:
            waited.append(took)
        (pg_wal / "RECOVERYXLOG").rename(pg_wal / name)
        time.sleep(pace)
