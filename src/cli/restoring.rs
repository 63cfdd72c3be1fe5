//! `backup-fetch` for a person: what it is going to do, what it has done, and what to type next.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::BackupFetch;
use super::opening::{archive, legacy};
use super::standing::ago;
use super::verbs::{observer, workers};
use super::{looking, message, restore_command};
use crate::config::Settings;
use crate::config::options::{self, restoring};
use crate::config::sources::Environment;
use crate::config::target::{Action, Goal};
use crate::error::{Context, Result};
use crate::observe::peak_memory;
use crate::observe::words::counted;
use crate::postgres::installed::{self, DebianCluster};
use crate::restore::{self, Base, Forecast, Places, Replay, Request, Restored, Upstream};
use crate::wal::receive::Sources;

/// Foresees a restore, tells what it will be, and, unless that was all that was asked for, does it.
pub(super) async fn fetch(words: BackupFetch, settings: &Settings, environment: &Environment) -> Result<()> {
    let archive = archive(settings).await?;
    let legacy = legacy(settings, environment, &archive, false).await?;
    let sources = Sources { archive, legacy };
    let (dry_run, json) = (words.dry_run, settings.get(&options::JSON)?);
    let observer = observer();
    let prospect = restore::foresee(&sources, request(words, settings, environment)?, &observer).await?;
    let forecast = prospect.forecast();
    let next = next_steps(forecast, environment);
    let plan = plan_text(forecast, Timestamp::now());
    if dry_run {
        observer.notice(crate::observe::Event::Done("nothing was touched: this was a dry run".into()));
        message::print(&if json { format!("{:#}", plan_json(forecast, &next)) } else { plan });
        return Ok(());
    }
    match std::io::stderr().is_terminal() {
        true => {
            observer.notice(crate::observe::Event::Done("the restore is planned".into()));
            message::tell(&plan);
        }
        false => plan.lines().for_each(|line| tracing::info!("{line}")),
    }
    let restored = restore::restore(&sources, prospect, &observer).await?;
    if json {
        message::print(&format!("{:#}", restored_json(&restored, &next)));
    } else if std::io::stdout().is_terminal() {
        message::print(&restored_text(&restored, &next));
    }
    Ok(())
}

fn request(words: BackupFetch, settings: &Settings, environment: &Environment) -> Result<Request> {
    let absolute = |path: &Path| std::path::absolute(path).during(|| "could not find the current directory");
    let places = Places {
        tablespaces: words.tablespaces,
        tablespace_root: settings.find(&restoring::TABLESPACE_ROOT)?.as_deref().map(absolute).transpose()?,
        wal: settings.find(&restoring::WALDIR)?.as_deref().map(absolute).transpose()?,
    };
    Ok(Request {
        directory: absolute(&words.directory)?,
        selection: words.backup,
        goal: words.goal,
        timeline: words.timeline,
        places,
        delta: settings.get(&restoring::DELTA)?,
        only_databases: settings.all(&restoring::ONLY_DATABASE)?,
        owner: settings.find(&restoring::OWNER)?,
        upstream: Upstream {
            conninfo: settings.find(&restoring::PRIMARY_CONNINFO)?,
            slot: settings.find(&restoring::SLOT)?,
        },
        system_id: settings.find(&options::SYSTEM_ID)?,
        restore_command: restore_command::build(settings, environment)?,
        workers: workers(settings)?,
    })
}

/// What it is going to do, a line for each thing.
fn plan_text(forecast: &Forecast, now: Timestamp) -> String {
    let backup = &forecast.backup;
    let mut lines = vec![
        (
            "backup",
            format!(
                "{}{}, made {} ago ({}), PostgreSQL {}",
                backup.name,
                backup.writer.map_or_else(String::new, |writer| format!(" of {writer}")),
                ago(backup.finished, now),
                looking::second(backup.finished),
                backup.postgres
            ),
        ),
        ("data", data_text(backup)),
        ("to", forecast.directory.display().to_string()),
    ];
    lines.extend(forecast.tablespaces.iter().map(|(tablespace, place)| {
        let moved = if *place == tablespace.location {
            "where it was".to_owned()
        } else {
            format!("which was in {}", tablespace.location.display())
        };
        ("tablespace", format!("{} to {}, {moved}", tablespace.oid, place.display()))
    }));
    lines.extend(forecast.wal_directory.iter().map(|place| ("pg_wal", format!("to {}", place.display()))));
    lines.extend(forecast.owner.iter().map(|owner| ("owner", owner.to_string())));
    lines.push(("recover to", format!("{}, along timeline {}", forecast.goal, forecast.timeline.0)));
    lines.push(("WAL", wal_text(&forecast.wal)));
    lines.push(("can stop", forecast.window.to_string()));
    lines.extend(
        forecast.last_commit.map(|time| ("last commit", format!("{time} in the newest WAL that was looked at"))),
    );
    lines.extend(forecast.copying.map(|copying| {
        let text = format!(
            "{} for the data, as the backup did; the replay of the WAL, which PostgreSQL does, comes on top",
            HumanDuration(copying)
        );
        ("takes about", text)
    }));
    if !forecast.left_out.is_empty() {
        let names: Vec<&str> = forecast.left_out.iter().map(|database| database.name.as_str()).collect();
        lines.push(("left out", format!("{}: there as zeros, to be dropped after the recovery", names.join(", "))));
    }
    if !forecast.configuration.missing.is_empty() {
        let missing = forecast.configuration.missing.join(" and ");
        lines.push(("not in it", format!("{missing}: the original had it elsewhere, or as a symbolic link")));
    }
    lines.extend(forecast.unknown.iter().map(|what| ("not known", what.clone())));
    lines.iter().map(|(name, value)| format!("{name:<13}{value}\n")).collect()
}

/// How much there is, as far as it is known.
fn data_text(backup: &Base) -> String {
    let size = backup.plain_size.map(|size| BinaryBytes(size).to_string());
    let files = backup.files.map(|files| format!("in {files} files"));
    let known: Vec<String> = size.into_iter().chain(files).collect();
    let fetched = format!("{} to fetch", BinaryBytes(backup.stored_size));
    if known.is_empty() { fetched } else { format!("{}, {fetched}", known.join(" ")) }
}

fn wal_text(wal: &Replay) -> String {
    let Replay { from, to, exact, segments, bytes } = wal;
    let most = if *exact { "" } else { "at most " };
    format!("from {from} to {most}{to}: {most}{}, {}", counted(*segments, "segment"), BinaryBytes(*bytes))
}

fn plan_json(forecast: &Forecast, next: &[String]) -> Value {
    let backup = &forecast.backup;
    json!({
        "backup": backup.name,
        "written_by": backup.writer.map(|writer| writer.to_string()),
        "system_id": backup.system_id,
        "postgres": backup.postgres,
        "finished": backup.finished,
        "plain_size": backup.plain_size,
        "stored_size": backup.stored_size,
        "files": backup.files,
        "directory": forecast.directory,
        "tablespaces": forecast.tablespaces.iter().map(|(tablespace, place)| {
            json!({ "oid": tablespace.oid, "from": tablespace.location, "to": place })
        }).collect::<Vec<Value>>(),
        "wal_directory": forecast.wal_directory,
        "owner": forecast.owner.as_ref().map(ToString::to_string),
        "target": forecast.goal.to_string(),
        "timeline": forecast.timeline.0,
        "wal": {
            "from": forecast.wal.from,
            "to": forecast.wal.to,
            "exact": forecast.wal.exact,
            "segments": forecast.wal.segments,
            "bytes": forecast.wal.bytes,
        },
        "window": looking::window_json(&forecast.window),
        "last_commit": forecast.last_commit,
        "expected_seconds": forecast.copying.map(|copying| copying.as_secs_f64()),
        "missing_configuration": forecast.configuration.missing,
        "left_out": forecast.left_out.iter().map(|database| database.name.as_str()).collect::<Vec<&str>>(),
        "unknown": forecast.unknown,
        "warnings": forecast.warnings,
        "next": next,
    })
}

/// What was done, where the time went, and what to type next.
fn restored_text(restored: &Restored, next: &[String]) -> String {
    let backup = &restored.forecast.backup;
    let seconds: f64 = restored.phases.iter().map(|lap| lap.took.as_secs_f64()).sum();
    let phases: Vec<String> =
        restored.phases.iter().map(|lap| format!("{} {:.1} s", lap.name, lap.took.as_secs_f64())).collect();
    let kept = match restored.kept.files {
        0 => String::new(),
        files => format!(" ({files} files, {}, had been there)", BinaryBytes(restored.kept.bytes)),
    };
    let mut text = format!(
        "backup {} is restored to {}\n{} files, {}{kept}, in {seconds:.1} s ({})\n",
        backup.name,
        restored.forecast.directory.display(),
        restored.files,
        BinaryBytes(restored.bytes),
        phases.join(", ")
    );
    restored.remarks.iter().for_each(|remark| text.push_str(&format!("{remark}\n")));
    text.push_str("\nNext:\n");
    next.iter().for_each(|step| text.push_str(&format!("  {step}\n")));
    text
}

/// The plan again, with what came of it; its form is in docs/json.md.
fn restored_json(restored: &Restored, next: &[String]) -> Value {
    let mut value = plan_json(&restored.forecast, next);
    let phases = restored.phases.iter().map(|lap| json!({ "name": lap.name, "seconds": lap.took.as_secs_f64() }));
    value["phases"] = phases.collect();
    value["seconds"] = restored.phases.iter().map(|lap| lap.took.as_secs_f64()).sum::<f64>().into();
    value["kept"] = json!({ "files": restored.kept.files, "bytes": restored.kept.bytes });
    value["restored"] = json!({ "files": restored.files, "bytes": restored.bytes });
    value["remarks"] = json!(restored.remarks);
    value["peak_memory"] = peak_memory().into();
    value
}

/// What a person types next, with what it does behind a `#` where that is not plain.
fn next_steps(forecast: &Forecast, environment: &Environment) -> Vec<String> {
    let root = environment.get(installed::CONFIG_ROOT_VARIABLE).map(Path::new);
    let debian = installed::debian_cluster(root, &forecast.directory);
    let mut steps = vec![start(forecast, debian.as_ref())];
    steps.push(match &forecast.goal {
        Goal::Standby => "psql -c 'SELECT pg_last_wal_replay_lsn()'  # how far it follows".to_owned(),
        Goal::EndOfArchive => {
            "psql -c 'SELECT pg_is_in_recovery()'  # f when all WAL is replayed and it is open".to_owned()
        }
        Goal::Target(target) => match target.action {
            Action::Pause => {
                "psql -c 'SELECT pg_wal_replay_resume()'  # when you have looked at it: opens it for writing"
            }
            Action::Promote => {
                "psql -c 'SELECT pg_is_in_recovery()'  # f when it is at the target and open for writing"
            }
            Action::Shutdown => "# the server shuts down at the target; recovery.signal stays until it is removed",
        }
        .to_owned(),
    });
    steps.extend(forecast.left_out.iter().map(|database| {
        let sql = format!("DROP DATABASE \"{}\"", database.name.replace('"', "\"\""));
        format!("psql -c '{}'  # when it is open: there are only zeros in it", sql.replace('\'', r"'\''"))
    }));
    steps
}

/// How to start the server. Where its configuration lies elsewhere, the data directory alone does not do.
fn start(forecast: &Forecast, debian: Option<&DebianCluster>) -> String {
    let user = forecast.owner.as_ref().map_or(String::new(), |owner| format!("sudo -u {} ", owner.user));
    if let Some(DebianCluster { version, name }) = debian {
        let sudo = if user.is_empty() { "" } else { "sudo " };
        return format!("{sudo}pg_ctlcluster {version} {name} start");
    }
    let pg_ctl = installed::pg_ctl(forecast.backup.postgres);
    let directory = quoted(&forecast.directory);
    match forecast.configuration.is_elsewhere() {
        false => format!("{user}{pg_ctl} -D {directory} -l {} start", quoted(&beside(&forecast.directory))),
        true => format!(
            "{user}{pg_ctl} -D {directory} -o \"-c config_file=POSTGRESQL.CONF -c data_directory={}\" -l {} start  \
             # with the original's postgresql.conf, which is in no backup",
            forecast.directory.display(),
            quoted(&beside(&forecast.directory))
        ),
    }
}

/// A log file beside the data directory.
fn beside(directory: &Path) -> std::path::PathBuf {
    directory.with_added_extension("log")
}

/// A word for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
