//! The words of `--help` that are not in the table of settings: what each verb is for, what it is given, and examples
//! that can be pasted. Never says anything of a setting.

use crate::config::row::VerbName;
use crate::error::{INTERRUPTED, Kind, STOP_RECOVERY};

/// What a verb is given by its place on the command line.
pub(super) struct Positional {
    pub(super) name: &'static str,
    pub(super) required: bool,
    pub(super) doc: &'static str,
}

pub(super) const PATH: &str = "PATH";
pub(super) const NAME: &str = "NAME";
pub(super) const PGDATA: &str = "PGDATA";
pub(super) const DIR: &str = "DIR";
pub(super) const BACKUP: &str = "BACKUP";
pub(super) const FILE: &str = "FILE";
pub(super) const WHAT: &str = "WHAT";
pub(super) const OBJECT: &str = "OBJECT";
pub(super) const SHELL: &str = "SHELL";

/// The operands of a verb, in their order.
pub(super) fn positionals(verb: VerbName) -> &'static [Positional] {
    match verb {
        VerbName::WalPush => &[Positional { name: PATH, required: true, doc: "The WAL file; %p in archive_command" }],
        VerbName::WalFetch => &[
            Positional { name: NAME, required: true, doc: "The name of the WAL file; %f in restore_command" },
            Positional { name: PATH, required: true, doc: "Where to put it; %p in restore_command" },
        ],
        VerbName::WalBackfill => {
            &[Positional { name: PGDATA, required: true, doc: "The data directory whose pg_wal is looked through" }]
        }
        VerbName::BackupPush => &[Positional {
            name: PGDATA,
            required: false,
            doc: "The data directory; unless given, the one that the server names",
        }],
        VerbName::BackupFetch => &[
            Positional { name: DIR, required: true, doc: "The data directory to make; absent or empty" },
            Positional {
                name: BACKUP,
                required: false,
                doc: "LATEST or an id; unless given, the newest backup that leads to the target",
            },
        ],
        VerbName::BackupShow | VerbName::BackupMark => {
            &[Positional { name: BACKUP, required: true, doc: "LATEST or an id, as backup-list prints it" }]
        }
        VerbName::BackupCat => &[
            Positional { name: BACKUP, required: true, doc: "LATEST or an id, as backup-list prints it" },
            Positional {
                name: FILE,
                required: true,
                doc: "The file's path in the data directory, such as postgresql.conf",
            },
        ],
        VerbName::Delete => &[
            Positional {
                name: WHAT,
                required: true,
                doc: "retain COUNT: all but the newest backups; policy: what the settings retain and retain-window do not \
                      keep, and garbage; before TIME or BACKUP; backup ID ...; everything; garbage: what failed backups have left",
            },
            Positional { name: OBJECT, required: false, doc: "A count, a time, or ids, as WHAT asks for" },
        ],
        VerbName::Keygen => &[Positional {
            name: FILE,
            required: true,
            doc: "The file to make; one that is there is not changed, and what is in it is shown",
        }],
        VerbName::Daemon => {
            &[Positional { name: PGDATA, required: true, doc: "The data directory of the cluster to serve" }]
        }
        VerbName::Status | VerbName::Exporter | VerbName::Report => &[Positional {
            name: PGDATA,
            required: false,
            doc: "The data directory of the cluster that is meant, if it lies on this machine",
        }],
        VerbName::Doctor => &[Positional {
            name: PGDATA,
            required: false,
            doc: "The data directory; unless given, the one that the server names",
        }],
        VerbName::Completions => &[Positional { name: SHELL, required: true, doc: "bash, zsh or fish" }],
        VerbName::Man => {
            &[Positional { name: DIR, required: true, doc: "The directory to write them into; it must exist" }]
        }
        VerbName::BackupList
        | VerbName::Keys
        | VerbName::Rekey
        | VerbName::WalShow
        | VerbName::WalVerify
        | VerbName::Config
        | VerbName::MigrateConfig => &[],
    }
}

/// What a verb does, in a line.
pub(super) fn summary(verb: VerbName) -> &'static str {
    match verb {
        VerbName::WalPush => "Store one WAL file: PostgreSQL's archive_command",
        VerbName::WalFetch => "Bring one WAL file back: PostgreSQL's restore_command",
        VerbName::WalBackfill => "Store what a server's pg_wal has and the archive has not, after a failover",
        VerbName::BackupPush => "Make a base backup of a running server",
        VerbName::BackupFetch => "Restore a base backup, up to now, to a point in time, or as a standby",
        VerbName::BackupList => "List the base backups",
        VerbName::BackupShow => "Show one base backup",
        VerbName::BackupCat => "Write one file of a base backup to standard output",
        VerbName::BackupMark => "Change the label, the notes or the keeping of a base backup",
        VerbName::Delete => "Delete old backups with their WAL, or what failed backups have left",
        VerbName::Keygen => "Make an age key to decrypt with, and print whom to encrypt to",
        VerbName::Keys => "List the data keys of an encrypted archive, and who can open them",
        VerbName::Rekey => "Change who can open the data keys, without touching what is encrypted with them",
        VerbName::Daemon => "Help wal-push with connections that are ready: for a store that is far away",
        VerbName::WalShow => "Show which WAL is in the archive, timeline by timeline",
        VerbName::WalVerify => "Verify that every backup finds the WAL to recover from it",
        VerbName::Status => {
            "Show how archiving stands: what waits or fails, the last backup, where a recovery can stop"
        }
        VerbName::Exporter => "Serve how archiving stands as metrics, for Prometheus",
        VerbName::Report => {
            "Show how archiving stands as one HTML page: what can be recovered, backups, what is not well"
        }
        VerbName::Doctor => {
            "Find out whether all is set up: the store, the server and this host, and what to do where it is not"
        }
        VerbName::Config => "Show all settings, and where each of them comes from",
        VerbName::MigrateConfig => "Make a configuration file of the settings of WAL-E or WAL-G",
        VerbName::Completions => "Print what a shell completes walden's commands by",
        VerbName::Man => "Write the man pages",
    }
}

/// What comes after the options of a verb.
pub(super) fn examples(verb: VerbName) -> &'static str {
    match verb {
        VerbName::WalPush => {
            "\
In postgresql.conf:
  archive_mode = on
  archive_command = 'walden --envdir /etc/walden.d wal-push %p'

Status 0 means that the file is in the archive, complete. PostgreSQL calls again after any other."
        }
        VerbName::WalFetch => {
            "\
In postgresql.conf:
  restore_command = 'walden --envdir /etc/walden.d wal-fetch %f \"%p\"'

Status 1 means that the file is certainly not in the archive. See walden --help for the others."
        }
        VerbName::WalBackfill => {
            "\
On the server that was promoted, as its user:
  walden --envdir /etc/walden.d wal-backfill /var/lib/postgresql/15/main"
        }
        VerbName::BackupPush => {
            "\
Every night, in /etc/cron.d/walden:
  30 1 * * *  postgres  walden --envdir /etc/walden.d backup-push

After one that was interrupted, without reading again what has not changed:
  walden --envdir /etc/walden.d backup-push --resume

By hand, of a server on another port:
  PGPORT=5433 walden --envdir /etc/walden.d backup-push

To keep, with its reason:
  walden --envdir /etc/walden.d backup-push --keep --label before-the-upgrade --note ticket=OPS-1234

From another host, over the network:
  PGHOST=db1 walden --envdir /etc/walden.d backup-push --remote"
        }
        VerbName::BackupFetch => {
            "\
All that the archive has:
  walden backup-fetch /var/lib/postgresql/15/main

To a point in time:
  walden backup-fetch /var/lib/postgresql/15/main --target-time '2026-11-20 14:03+01'

To just before a transaction that did harm, then open for writing:
  walden backup-fetch /var/lib/postgresql/15/main --target-xid 81273 --target-exclusive \\
    --target-action promote

What that would do, without doing it:
  walden backup-fetch /var/lib/postgresql/15/main --target-xid 81273 --dry-run

As root, beside the original, with all tablespaces in one place:
  walden backup-fetch /srv/copy/data --owner postgres --tablespace-root /srv/copy/spaces

A standby, which follows the archive, and streams when its primary can be reached:
  walden backup-fetch /var/lib/postgresql/15/main --standby
  walden backup-fetch /var/lib/postgresql/15/main --standby \\
    --primary-conninfo 'host=primary' --slot standby_1

Then start PostgreSQL; the last lines say how. At a target it waits, readable except for what a transaction
that was running then had locked; to open it for writing:
  psql -c 'SELECT pg_wal_replay_resume()'"
        }
        VerbName::BackupList => {
            "\
Examples:
  walden --envdir /etc/walden.d backup-list
  walden --envdir /etc/walden.d backup-list --windows
  walden --prefix s3://bucket/path backup-list --json"
        }
        VerbName::BackupShow => {
            "\
Examples:
  walden backup-show LATEST
  walden backup-show 20261121T013005Z-0000000100000000000000AB --json
  walden backup-show LATEST --files"
        }
        VerbName::BackupCat => {
            "\
The settings of the server as they were:
  walden backup-cat LATEST postgresql.conf

Only what the file takes is fetched. walden backup-show LATEST --files prints which files there are."
        }
        VerbName::BackupMark => {
            "\
Examples:
  walden --envdir /etc/walden.d backup-mark LATEST --label before-the-upgrade --keep
  walden backup-mark 20261121T013005Z-0000000100000000000000AB --note ticket=OPS-1234 --no-keep"
        }
        VerbName::Delete => {
            "\
What would go and what stays, each with its reason; nothing goes without --confirm:
  walden --envdir /etc/walden.d delete retain 7
  walden --envdir /etc/walden.d delete retain 3 --window 14d
  walden --envdir /etc/walden.d delete before 2026-11-01T00:00+01
  walden --envdir /etc/walden.d delete before 20261121T013005Z-0000000100000000000000AB
  walden --envdir /etc/walden.d delete backup 20261121T013005Z-0000000100000000000000AB
  walden --envdir /etc/walden.d delete everything --even-the-last

Every night after the backup, with WALDEN_RETAIN=7 or WALDEN_RETAIN_WINDOW=14d among the settings:
  walden --envdir /etc/walden.d delete policy --confirm

What failed backups have left, which delete policy takes along:
  walden --envdir /etc/walden.d delete garbage --confirm

What is marked to be kept, what may be being taken and the newest sound backup stay. WAL stays as long as a
backup that stays needs it. Whoever deletes needs s3:DeleteObject."
        }
        VerbName::Keygen => {
            "\
On the machine that restores, not on the server; it prints what belongs into encrypt-to:
  walden keygen /etc/walden.d/.identity

What belongs to a key that is there, an age identity or a symmetric one:
  walden keygen /etc/walden.d/.identity

A symmetric key as age reads it, to be kept in a safe place:
  walden keygen /etc/walden.d/.key --as-identity

Keep copies elsewhere: what was encrypted for a key that is lost cannot be read by anybody."
        }
        VerbName::Keys => {
            "\
Examples:
  walden --envdir /etc/walden.d keys
  walden --prefix s3://bucket/path keys --json

It takes no key: for whom a data key is wrapped can be read by everybody who may read the archive."
        }
        VerbName::Rekey => {
            "\
What would be done, with the new recipients among the settings and the old identity at hand:
  WALDEN_ENCRYPT_TO='age1...' walden --envdir /etc/walden.d rekey --identity-file /root/old-identity

The same, done; an interrupted one is gone on with by the same command:
  WALDEN_ENCRYPT_TO='age1...' walden --envdir /etc/walden.d rekey --identity-file /root/old-identity --confirm

Only the small objects that hold the data keys are replaced. Who had an old key may have copied data keys,
and can read with them what was encrypted until now."
        }
        VerbName::Daemon => {
            "\
As the server's user, with the same settings as archive_command:
  walden --envdir /etc/walden.d daemon /var/lib/postgresql/15/main

wal-push finds it by itself, and does without it where it is not there or has other settings."
        }
        VerbName::WalShow => {
            "\
Examples:
  walden --envdir /etc/walden.d wal-show
  walden --prefix s3://bucket/path wal-show --system-id 7710427967336607753 --json"
        }
        VerbName::WalVerify => {
            "\
Every hour, in /etc/cron.d/walden; a gap is told on standard error, with status 9:
  0 * * * *  postgres  walden --envdir /etc/walden.d wal-verify >/dev/null

Reading everything; if it is interrupted, the same command goes on where it was:
  walden --envdir /etc/walden.d wal-verify --deep --workers 4

Status 7 means damage, 9 a gap, 1 that there is no backup."
        }
        VerbName::Status => {
            "\
Examples:
  walden --envdir /etc/walden.d status
  walden --envdir /etc/walden.d status --json
  walden --envdir /etc/walden.d status /var/lib/postgresql/15/main

It asks the store, and the server that the PG* variables lead to. Where only one of them can be
seen, it shows that, and says what it has not seen. It can be run on any machine that may read
the store.

For Nagios and its like, as a user who may read the data directory:
  walden --envdir /etc/walden.d status --check /var/lib/postgresql/15/main"
        }
        VerbName::Exporter => {
            "\
As the server's user, so that it sees what waits and what fails:
  walden --envdir /etc/walden.d exporter /var/lib/postgresql/15/main

In prometheus.yml:
  scrape_configs:
    - job_name: walden
      static_configs:
        - targets: ['127.0.0.1:9762']

With metrics-dir set it serves what the other verbs leave there, too."
        }
        VerbName::Report => {
            "\
Every morning, where a web server or a mail finds it:
  walden --envdir /etc/walden.d report --output /srv/www/walden.html

What the page says, as data:
  walden --envdir /etc/walden.d report --json

The page is one file. It loads nothing, so it can be mailed and kept. What is not well is said on it,
and does not change the exit status; that the archive could not be seen does, after the page has been
written."
        }
        VerbName::Doctor => {
            "\
As the user who runs archive_command or restore_command, with the same settings:
  sudo -u postgres walden --envdir /etc/walden.d doctor

Where no server runs, its files and this host:
  sudo -u postgres walden --envdir /etc/walden.d doctor /var/lib/postgresql/15/main

It stores, reads and deletes a small object, walden-doctor.txt, as far as it may, and connects to the
server as backup-push does. It runs neither archive_command nor restore_command, but reads them. What is
not allowed in the store is told, and is no failure: a primary needs s3:PutObject alone, a standby
s3:GetObject and s3:ListBucket. What could not be seen is told as unseen. It takes less than 10 seconds."
        }
        VerbName::Config => {
            "\
What archive_command would use:
  sudo -u postgres walden --envdir /etc/walden.d config

A configuration file to begin with:
  walden config --example >/etc/walden.toml"
        }
        VerbName::MigrateConfig => {
            "\
Of WAL-E's directory of variables:
  walden --envdir /etc/wal-e.d/env migrate-config >/etc/walden.toml

Of WAL-G's configuration file:
  walden migrate-config --from /etc/wal-g/walg.json >/etc/walden.toml

Remarks in it say which variables stay variables, what has to be decided, and what has no meaning here.
Secrets are never printed. No archive is looked at."
        }
        VerbName::Completions => {
            "\
For everybody on this machine:
  walden completions bash >/usr/share/bash-completion/completions/walden
  walden completions zsh >/usr/share/zsh/vendor-completions/_walden
  walden completions fish >/usr/share/fish/vendor_completions.d/walden.fish"
        }
        VerbName::Man => {
            "\
For everybody on this machine; then man walden, and man walden-backup-push:
  walden man /usr/local/share/man/man1

Without installing them:
  walden man /tmp
  man -l /tmp/walden-doctor.1"
        }
    }
}

/// What comes after the options of `walden` itself.
pub(super) fn epilogue() -> String {
    let codes: Vec<String> = Kind::ALL
        .into_iter()
        // Always answered within Walden: seen from outside, it is a conflict or no error at all.
        .filter(|&kind| kind != Kind::AlreadyExists)
        .map(|kind| format!("  {:>3}  {}", kind.code(), meaning(kind)))
        .collect();
    format!(
        "\
Settings come from the flag, else the variable WALDEN_..., else WAL-G's or WAL-E's name for the same, else the
file that --config names, else the default. AWS_* and PG* variables mean what they mean to the AWS SDKs and
to libpq.

Exit status:
    0  done
{}
   {INTERRUPTED}  wal-push was ended by a signal
  {STOP_RECOVERY}  wal-fetch in a recovery that must not end early, instead of all but 0 and 1

Begin with:
  walden config
  walden doctor
  walden wal-push --help",
        codes.join("\n")
    )
}

fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "certainly not in the archive",
        Kind::Usage => "the command line cannot be understood",
        Kind::Config => "a setting is missing, unknown or illegal",
        Kind::Denied => "no permission",
        Kind::Unreachable => "the store or the server cannot be reached",
        Kind::AlreadyExists | Kind::Conflict => "the archive has something else under this name",
        Kind::Corrupt => "data is damaged",
        Kind::Refused => "it would be unsafe",
        Kind::Incomplete => "something that must be complete has a gap",
        Kind::Local => "this machine failed: disk full, I/O error",
        Kind::Damaged => "the server's own data pages are damaged",
        Kind::Bug => "a defect in Walden",
    }
}
