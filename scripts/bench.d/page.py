"""How long `walden report` takes over very many segments, and how long a browser takes over its page."""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SYSTEM_ID = "7710427967336607753"
SIZE = 16 << 20


def sealed(content):
    """docs/format.md, "Sealed objects"."""
    return content + '"sha256":"' + hashlib.sha256(content.encode()).hexdigest() + '"}\n'


def segment(number):
    return f"00000001{number // 256:08X}{number % 256:08X}"


def lsn(number, offset):
    return f"{number * SIZE + offset >> 32:X}/{number * SIZE + offset & 0xFFFFFFFF:X}"


def archive(directory, segments, backups=60):
    """Objects with the names of segments, and the manifests of backups spread over them: whoever lists does not read."""
    wal = directory / SYSTEM_ID / "wal/00000001"
    wal.mkdir(parents=True)
    for number in range(1, segments + 1):
        (wal / segment(number)).touch()
    (directory / "walden.json").write_text(sealed('{"format":1,\n'))
    now = time.time()
    for index in range(backups):
        began, number = now - (backups - index) * 86400, 1 + index * (segments // backups)
        clock = lambda seconds: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
        ident = re.sub("[-:]", "", clock(began)) + "-" + segment(number)
        manifest = {
            "format": 1, "walden": "0.1.0", "id": ident, "system_id": SYSTEM_ID, "postgres": 15, "started": clock(began),
            "finished": clock(began + 3000), "timeline": 1, "start": lsn(number, 40), "stop": lsn(number, 4096),
            "segment_size": SIZE, "data_checksums": True, "directory_mode": 448, "files": 1, "plain_size": 1 << 36,
            "stored_size": 1 << 34, "tablespaces": [], "files_blake3": "00",
        }
        place = directory / SYSTEM_ID / "backup" / ident
        place.mkdir(parents=True)
        (place / "backup.json").write_text(sealed(json.dumps(manifest)[:-1] + ",\n"))


def page(walden, segments):
    """Prints what it took. The browser looks through a frame, as in tests/report.rs."""
    scratch = Path(tempfile.mkdtemp(prefix="walden-page-"))
    try:
        archive(scratch / "archive", segments)
        report = scratch / "report.html"
        began = time.monotonic()
        environment = {"HOME": str(scratch), "WALDEN_CACHE_DIR": str(scratch / "cache")}
        prefix = f"file://{scratch}/archive"
        subprocess.run([walden, "--prefix", prefix, "report", "--output", report], env=environment, check=True)
        print(f"walden report over {segments} segments: {time.monotonic() - began:.2f} s, {report.stat().st_size} bytes")
        frame = scratch / "frame.html"
        script = "out.textContent = frame.contentWindow.performance.getEntriesByType('navigation')[0].loadEventEnd"
        frame.write_text(
            f"<!doctype html><iframe id=frame src='file://{report}' width=1280 height=900></iframe><pre id=out></pre>"
            f"<script>addEventListener('load', () => {{ {script} }})</script>"
        )
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        arguments += ["--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"]
        arguments += [f"--user-data-dir={scratch}/profile", "--dump-dom", f"file://{frame}"]
        dom = subprocess.run(["chromium", *arguments], capture_output=True, text=True, check=True).stdout
        print(f"the browser has loaded it after {float(re.search('<pre id=.out.>([0-9.]+)', dom)[1]):.0f} ms")
    finally:
        shutil.rmtree(scratch)
