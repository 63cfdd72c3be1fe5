"""What a backup does to the users of the database: pgbench at half of what the server can do, quiet and beside a backup."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from measures import all_measures

# pgbench runs this long before a backup begins, and is asked for so long in all: backups here take seconds.
QUIET_SECONDS, ASKED_SECONDS = 8, 60

CLIENTS = ["-n", "-c", "4", "-j", "2"]


def impact(bench, contestants, cluster, runs):
    """Prints a table; needs a machine that does nothing else."""
    told = cluster.program("pgbench", *CLIENTS, "-T", "10", stderr=subprocess.DEVNULL)
    most = float(next(line.split()[2] for line in told.splitlines() if line.startswith("tps")))
    rate = most / 2
    print(f"\npgbench at {rate:.0f} of {most:.0f} transactions a second\n")
    print("| contestant | backup s | transactions kept | p99 quiet, ms | p99 beside the backup, ms |")
    print("|---|--:|--:|--:|--:|")
    measure = next(one for one in all_measures([1], [0], 0) if one.name == "backup")
    for contestant in contestants:
        if not contestant.can("backup"):
            continue
        backup_seconds, quiet, beside = 0.0, [], []
        for run in range(1, runs + 1):
            seconds, before, during = _beside(bench, contestant, cluster, measure, rate, run)
            backup_seconds += seconds
            quiet += before
            beside += during
        kept = len(beside) / (rate * backup_seconds)
        row = [contestant.name, f"{backup_seconds / runs:.1f}", f"{min(kept, 1):.1%}", f"{_p99(quiet):.1f}", f"{_p99(beside):.1f}"]
        print(f"| {' | '.join(row)} |", flush=True)


def _beside(bench, contestant, cluster, measure, rate, run):
    """The seconds of one backup, and the latencies in ms of the transactions that ended before and during it."""
    prefix = cluster.scratch / "transactions"
    words = [cluster.programs / "pgbench", *CLIENTS, "-R", f"{rate:.0f}", "-T", ASKED_SECONDS, "-l", "--log-prefix", prefix]
    with bench.meter.orphans_let_go():
        # Nobody's child, so nobody waits for it as for something that a command left running.
        script = '"$0" "$@" </dev/null >/dev/null 2>&1 & echo $!'
        users = int(cluster.account.run("sh", "-c", script, *map(str, words), env=cluster.environment, cwd=cluster.scratch))
    began = time.time() + 1
    time.sleep(QUIET_SECONDS)
    sample = bench.sample(measure, contestant, run)
    ended = time.time()
    with suppress(ProcessLookupError):
        os.kill(users, signal.SIGTERM)
    while Path(f"/proc/{users}").exists():
        time.sleep(0.05)
    quiet, beside = [], []
    for log in cluster.scratch.glob("transactions.*"):
        for line in log.read_text().splitlines():
            # client, number, latency in us with the wait for its turn, script, seconds, microseconds, that wait
            words = line.split()
            if len(words) == 7:
                at, latency = int(words[4]) + int(words[5]) / 1e6, int(words[2]) / 1000
                if ended - sample.wall <= at <= ended:
                    beside.append(latency)
                elif began <= at < began + QUIET_SECONDS - 2:
                    quiet.append(latency)
        log.unlink()
    return sample.wall, quiet, beside


def _p99(latencies):
    latencies = sorted(latencies)
    return latencies[len(latencies) * 99 // 100] if latencies else float("nan")
