"""What the commands work against: a PostgreSQL cluster with its WAL, and an S3 server behind TLS. Loopback only."""

import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

POSTGRES_CONF = """
wal_level = replica
archive_mode = on
max_wal_size = 4GB
checkpoint_timeout = 1h
synchronous_commit = off
autovacuum = off
"""

NGINX_CONF = """
pid {directory}/pid;
worker_processes 1;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format sizes '$request_method $http_content_length $body_bytes_sent';
  access_log {directory}/requests sizes;
  client_max_body_size 0;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/unused;
  uwsgi_temp_path {directory}/unused;
  scgi_temp_path {directory}/unused;
  upstream store {{ server {store}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/server.pem;
    ssl_certificate_key {directory}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass http://store;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
  }}
}}
"""


class Account:
    """The user that PostgreSQL and the commands run as: PostgreSQL refuses root."""

    def __init__(self):
        self.is_root = os.geteuid() == 0
        names = ["postgres", "nobody"] if self.is_root else [pwd.getpwuid(os.geteuid()).pw_name]
        known = {entry.pw_name for entry in pwd.getpwall()}
        self.entry = pwd.getpwnam(next(name for name in names if name in known))

    def as_user(self):
        """The arguments that make `subprocess` run something as this user."""
        if not self.is_root:
            return {}
        return {"user": self.entry.pw_uid, "group": self.entry.pw_gid, "extra_groups": []}

    def make_directory(self, path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        return self.own(path)

    def own(self, path):
        if self.is_root:
            os.chown(path, self.entry.pw_uid, self.entry.pw_gid)
        return path

    def run(self, *command, **options):
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **self.as_user(), **options).stdout


class Store:
    """SeaweedFS, and before it nginx, which ends the TLS and notes every request."""

    def __init__(self, account, directory, nginx):
        self.account, self.directory, self.nginx = account, directory, nginx
        self.requests_log = directory / "requests"
        self.authority = directory / "authority.pem"
        self.pid_file = directory / "pid"

    def start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"https://127.0.0.1:{self.port}"
        self._make_certificates()
        self._start_servers()

    def start_over(self):
        """An empty store at the same address. Its processes must not become the caller's to wait for."""
        self._stop_front()
        self._start_servers()

    def _start_servers(self):
        told = subprocess.run([ROOT / "scripts/seaweedfs", "start"], check=True, text=True, stdout=subprocess.PIPE).stdout
        told = dict(word.split("=", 1) for word in shlex.split(told) if "=" in word)
        self.bucket = told["SEAWEEDFS_PREFIX"].removeprefix("s3://")
        self.key, self.secret = told["SEAWEEDFS_ACCESS_KEY_ID"], told["SEAWEEDFS_SECRET_ACCESS_KEY"]
        self._start_front(told["SEAWEEDFS_ENDPOINT_URL"].removeprefix("http://"))

    def _make_certificates(self):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        openssl = lambda *arguments: self.account.run("openssl", *arguments, cwd=self.directory, stderr=subprocess.DEVNULL)
        openssl("req", "-x509", *key, "-keyout", "authority.key", "-out", "authority.pem", "-subj", "/CN=bench authority")
        names = "subjectAltName=IP:127.0.0.1,DNS:127.0.0.1"  # pgBackRest compares names only
        issued = ["-CA", "authority.pem", "-CAkey", "authority.key", "-addext", "basicConstraints=critical,CA:FALSE"]
        openssl("req", "-x509", *key, "-keyout", "server.key", "-out", "server.pem", "-subj", "/CN=front", "-addext", names, *issued)

    def _start_front(self, store):
        configuration = self.directory / "nginx.conf"
        configuration.write_text(NGINX_CONF.format(directory=self.directory, store=store, port=self.port))
        # It listens by the time that it has become a daemon.
        self.account.run(self.nginx, "-c", configuration, "-e", self.directory / "error.log")

    def _stop_front(self):
        if self.pid_file.exists():
            os.kill(int(self.pid_file.read_text()), signal.SIGTERM)
        for _ in range(500):
            if not self.pid_file.exists():  # nginx removes it last
                return
            time.sleep(0.01)
        raise SystemExit("nginx did not stop within 5 s")

    def stop(self):
        self._stop_front()
        subprocess.run([ROOT / "scripts/seaweedfs", "stop"], check=False)


class Distance:
    """Addresses from which the store is a round trip away: see distance.py."""

    def __init__(self, store, round_trips):
        self.store, self.process = store, None
        self.far = [round_trip for round_trip in round_trips if round_trip > 0]  # milliseconds
        self.endpoints = {}

    def start(self):
        self.endpoints = {0: self.store.endpoint}
        # Its shell ends, so it is nobody's child, and nobody waits for it as for something that a command left running.
        script = f'{shlex.quote(sys.executable)} "$0" "$@" </dev/null 2>/dev/null & echo $!'
        words = ["sh", "-c", script, Path(__file__).with_name("distance.py"), "serve", self.store.port, *self.far]
        shell = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        self.process = int(shell.stdout.readline())
        ports = shell.stdout.readline().split()
        shell.wait()
        if len(ports) != len(self.far):
            raise SystemExit("distance.py did not start")
        self.endpoints |= {far: f"https://127.0.0.1:{port}" for far, port in zip(self.far, ports)}

    def stop(self):
        if self.process:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGTERM)

    def described(self):
        """Lines that say how true it is, measured with a server that does nothing."""
        command = [sys.executable, Path(__file__).with_name("distance.py"), "measure", *map(str, self.far)]
        told = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
        for line in map(json.loads, told):
            name = "loopback" if line["round_trip"] is None else f"distance of {line['round_trip'] * 1000:g} ms"
            times = f"first answer {line['first'] * 1000:.1f} ms, later ones {line['later'] * 1000:.1f} ms"
            yield f"{name}: {times}, {line['bytes_per_second'] / 1e6:.0f} MB/s"


class Cluster:
    """A pgbench database, a backup of it, and the WAL that came after it, as if in a data directory of its own.

    `lead` are the segments from the backup's first one to the first busy one; `busy` are full, `idle` nearly empty.
    """

    def __init__(self, account, programs, data, scratch):
        self.account, self.programs, self.scratch = account, programs, scratch
        self.data_directory = data / "cluster"
        self.base_backup = data / "base"
        self.wal_directory = data / "wal"
        self.log = scratch / "postgres.log"
        # pgBackRest backs up no server whose archive_command does not name it.
        self.archiver = scratch / "archive-with-pgbackrest-or-another"
        self.environment = os.environ | {"PGHOST": str(scratch), "PGPORT": "5432", "PGUSER": "postgres", "PGDATABASE": "postgres"}

    def program(self, name, *arguments, **options):
        return self.account.run(self.programs / name, *arguments, env=self.environment, cwd=self.scratch, **options)

    def sql(self, text):
        return self.program("psql", "-XAtqc", text).strip()

    def start(self, scale, busy, idle):
        """Starts the server; makes what is not there: the tables, `busy` full segments, `idle` nearly empty ones."""
        self.archive_with("true", {})
        made = self.data_directory.exists()
        if not made:
            self.program("initdb", "-k", "-A", "trust", "-U", "postgres", "-D", self.data_directory)
            with open(self.data_directory / "postgresql.conf", "a") as conf:
                conf.write(POSTGRES_CONF)
        settings = f"-k {self.scratch} -c listen_addresses= -c archive_command='{self.archiver} %p'"
        self.program("pg_ctl", "-D", self.data_directory, "-l", self.log, "-w", "-t", "300", "-o", settings, "start")
        if not made:
            self.program("pgbench", "-i", "-q", "-s", str(scale), stderr=subprocess.DEVNULL)
        if not self.names("lead") or len(self.names("busy")) < busy or len(self.names("idle")) < idle:
            self._make_wal(busy, idle)

    def stop(self):
        if (self.data_directory / "postmaster.pid").exists():
            self.program("pg_ctl", "-D", self.data_directory, "-m", "fast", "-w", "stop")

    def archive_with(self, text, environment):
        """Lets the server archive with this command from now on."""
        new = self.archiver.with_suffix(".new")
        write_script(new, text, environment)
        new.rename(self.archiver)

    def names(self, kind):
        """The names of the `lead`, the `busy` or the `idle` segments, in order."""
        listed = self.wal_directory / kind
        return listed.read_text().split() if listed.exists() else []

    def _make_wal(self, busy, idle):
        for old in [self.base_backup, self.wal_directory]:
            shutil.rmtree(old, ignore_errors=True)
        pg_wal = self.account.make_directory(self.wal_directory / "pg_wal")
        self._switch()
        self.archive_with(f'cp "$1" {pg_wal}', {})
        self.program("pg_basebackup", "-D", self.base_backup, "-X", "none", "-c", "fast", "--no-manifest", stderr=subprocess.DEVNULL)
        self._switch()
        first = self.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        # A clone in /root is not for every user.
        script = shutil.copy(Path(__file__).with_name("transaction.sql"), self.scratch)
        scale = self.sql("SELECT count(*) FROM pgbench_branches")
        play = ["pgbench", "-n", "-f", script, "-s", scale, "-c", "4", "-j", "2", "-T", "5"]
        segments = lambda: sorted(path.name for path in pg_wal.iterdir() if len(path.name) == 24)
        while sum(name >= first for name in segments()) < busy:
            # Pages are whole in the WAL after a checkpoint, and half of a busy server's WAL is such pages.
            self.sql("CHECKPOINT")
            self.program(*play, stderr=subprocess.DEVNULL)
        last = self._switch()
        for _ in range(idle):
            self.sql("SELECT txid_current()")
            self._switch()
        self.archive_with("true", {})
        made = segments()
        parts = {
            "busy": [name for name in made if name >= first][:busy],
            "idle": [name for name in made if name > last][:idle],
            "lead": [name for name in made if name < first],  # written last: it says that all is there
        }
        for kind, names in parts.items():
            (self.wal_directory / kind).write_text("\n".join(names))
        self.sql("CHECKPOINT")
        look_like_a_data_directory(self.account, self.data_directory, self.wal_directory)

    def _switch(self):
        """Ends the segment and waits until it is archived; its name."""
        name = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        while self.sql(f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver") != "t":
            time.sleep(0.1)
        return name


def write_script(path, text, environment):
    """A command that a server can call, which knows nothing of our environment."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    path.write_text(f"#!/bin/sh\n{exports}{text}\n")
    path.chmod(0o755)


def look_like_a_data_directory(account, of, directory):
    """Gives a directory what commands that handle WAL want to see of a data directory."""
    for place in [directory, directory / "pg_wal", directory / "pg_wal/archive_status", directory / "global"]:
        account.make_directory(place)
    for name in ["PG_VERSION", "global/pg_control"]:
        account.own(shutil.copy(of / name, directory / name))
