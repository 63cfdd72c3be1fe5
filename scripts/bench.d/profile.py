"""Where the processor's time goes: cold calls of one verb under perf, and the symbols that took most of it."""

import os
import shutil
import subprocess

from meter import Failed
from servers import write_script

# Samples a second of the clock that every machine has; virtual ones often lack the counters of real processors.
FREQUENCY = "9973"

# Rows of a report below this share, in percent, say nothing.
LEAST = "0.7"


def profile(directory, calls):
    """Runs each command line on its own under perf and prints two reports about all of them together.

    As the calling user, not as another: what the kernel did is for root's eyes only.
    """
    perf = shutil.which("perf")
    if not perf:
        raise Failed("Please install perf (Debian: linux-perf): it takes the profile.")
    data, script = directory / "perf.data", directory / "calls"
    lines = [f"(cd '{call.directory}' && sh -c \"$COMMAND\" sh {' '.join(call.arguments)}) || exit" for call in calls]
    # perf sets variables of its own, PREFIX among them, so the script has the environment in itself.
    write_script(script, "\n".join(lines), calls[0].environment | {"COMMAND": calls[0].text})
    record = [perf, "record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-o", data, "--", script]
    ran = subprocess.run(record, capture_output=True, text=True)
    if ran.returncode != 0:
        raise Failed(f"{ran.stderr[-2000:]}\nperf, or what it watched, failed")
    for by in ["dso", "dso,symbol"]:
        report = [perf, "report", "-q", "-i", data, "--stdio", "--sort", by, "--percent-limit", LEAST]
        subprocess.run(report, check=True, stderr=subprocess.DEVNULL, env=os.environ | {"PERF_PAGER": "cat"})
