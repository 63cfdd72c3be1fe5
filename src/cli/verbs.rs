//! One arm a verb: from validated words to the story that does it, and to what is printed.

use std::future::Future;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;

use super::arguments::{Deletion, Invocation, Verb};
use super::opening::{
    archive, keyless_archive, legacy, level, pushing_archive, sources_address, wal_archive, wal_sources,
};
use super::{
    backups, config, deleting, doctor, keys, looking, message, pages, resident, restoring, retaining, theirs, wal,
    watching,
};
use crate::archive::Archive;
use crate::backup::delete::{self, Swept, expire, expiry};
use crate::backup::manifest::Backup;
use crate::backup::push as backup_push;
use crate::backup::remote as remote_push;
use crate::backup::{cat, catalogue, mark};
use crate::config::Settings;
use crate::config::options;
use crate::config::reference;
use crate::config::sources::Environment;
use crate::config::target::Selection;
use crate::config::{migration, wal_g};
use crate::doctor as diagnosis;
use crate::error::{Context, Error, Kind, Recovery, Result};
use crate::keys as data_keys;
use crate::legacy::Standing;
use crate::legacy::backups::Found;
use crate::observe::{self, Observer};
use crate::postgres::client::{Client, Replication};
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::status;
use crate::storage::{self, memory::Memory};
use crate::wal::segment::WalFile;
use crate::wal::spool::Spool;
use crate::wal::{backfill, fetch, prefetch, push, show, verify};

/// Does it, and returns the exit code of a success.
pub(super) fn run(Invocation { verb, settings }: Invocation, environment: &Environment) -> Result<u8> {
    let done = match verb {
        Verb::WalPush { path } => wal_push(path, &settings, environment),
        Verb::WalFetch { name, path, ahead } => wal_fetch(name, path, ahead, &settings, environment),
        Verb::WalBackfill { pgdata } => on_one_thread(async {
            let archive = pushing_archive(&settings).await?;
            let done = backfill::backfill(&archive, &pgdata, &observer()).await?;
            let json = settings.get(&options::JSON)?;
            message::print(&if json { wal::backfilled_json(&done) } else { wal::backfilled(&done) });
            Ok(())
        }),
        Verb::BackupPush { pgdata, remote, marks } => step_back(&settings).and_then(|()| {
            on_all_threads(async {
                let archive = archive(&settings).await?;
                let variables = environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                let options = backup_push::Options {
                    data_directory: pgdata,
                    workers: workers(&settings)?,
                    level: level(&settings, &options::BACKUP_COMPRESSION)?,
                    part_size: settings.get(&options::PART_SIZE)? as usize,
                    memory_limit: settings.get(&options::MEMORY_LIMIT)?,
                    max_rate: settings.find(&options::MAX_RATE)?,
                    remote_compression: settings.get(&options::REMOTE_COMPRESSION)?,
                    wal_timeout: settings.get(&options::WAL_TIMEOUT)?,
                    on_corruption: settings.get(&options::ON_CORRUPTION)?,
                    resume: settings.get(&options::RESUME)?,
                    journals: Memory::at(settings.find(&options::CACHE_DIR)?).private_directory(),
                    address: storage::address(&settings.get(&options::PREFIX)?),
                    marks,
                };
                let backup = if remote {
                    let replication = Replication::connect(&variables).await?;
                    remote_push::push(&archive, replication, &options, &observer()).await?
                } else {
                    let client = Client::connect(&variables).await?;
                    backup_push::push(&archive, &client, &options, &observer()).await?
                };
                if settings.get(&options::JSON)? {
                    message::print(&backups::json(&backup)?);
                } else if std::io::stdout().is_terminal() {
                    message::print(&backups::summary(&backup));
                }
                backup_push::judge(&backup)
            })
        }),
        Verb::BackupFetch(words) => {
            step_back(&settings)?;
            on_all_threads(restoring::fetch(words, &settings, environment))
        }
        Verb::BackupList => on_all_threads(async {
            let archive = keyless_archive(&settings).await?;
            let (systems, theirs) = clusters_beside(&settings, environment, &archive).await?;
            let windows = settings.get(&options::WINDOWS)?;
            let (observer, mut listed) = (observer(), Vec::new());
            for system in systems {
                let found = catalogue::list(&archive, system).await?;
                let report = match windows || verify::is_short(&archive, system).await? {
                    true => {
                        let looked = found.iter().map(|found| (found.id(), Ok(found.clone()))).collect();
                        Some(verify::verify_found(&archive, system, looked, None, &observer).await?)
                    }
                    false => None,
                };
                listed.push((found, report));
            }
            let json = settings.get(&options::JSON)?;
            message::print(&match json {
                true => backups::list_json(&theirs, &listed)?,
                false => backups::list_table(&theirs, &listed),
            });
            Ok(())
        }),
        Verb::BackupShow { backup: Selection::Legacy(name) } => on_one_thread(async {
            if settings.get(&options::FILES)? {
                return Err(name.not_ours());
            }
            let archive = keyless_archive(&settings).await?;
            let backup = legacy(&settings, environment, &archive, false).await?.backup(&name).await?;
            let json = settings.get(&options::JSON)?;
            message::print(&if json { theirs::json(&backup) } else { theirs::show(&backup) });
            Ok(())
        }),
        Verb::BackupShow { backup } => on_one_thread(async {
            let files = settings.get(&options::FILES)?;
            // What it says of the backup itself is for whoever watches.
            let archive = if files { archive(&settings).await? } else { keyless_archive(&settings).await? };
            let backup = selected(backup, &settings, &archive).await?;
            let json = settings.get(&options::JSON)?;
            if files {
                let files = catalogue::files(&archive, &backup).await?;
                return backups::print_files(&files, json);
            }
            message::print(&if json { backups::json(&backup)? } else { backups::show(&backup) });
            Ok(())
        }),
        Verb::BackupCat { backup, file } => on_one_thread(async {
            let archive = archive(&settings).await?;
            let backup = selected(backup, &settings, &archive).await?;
            cat::cat(&archive, &backup, &file, &mut std::io::stdout()).await
        }),
        Verb::BackupMark { backup, change } => on_one_thread(async {
            let archive = keyless_archive(&settings).await?;
            if let Selection::Legacy(name) = backup {
                return Err(name.not_ours());
            }
            let system = cluster(&settings, &archive).await?;
            let id = match backup {
                Selection::Id(id) => id,
                _ => catalogue::latest(&archive, system).await?.id,
            };
            let backup = mark::mark(&archive, system, id, change).await?;
            if settings.get(&options::JSON)? {
                message::print(&backups::json(&backup)?);
            } else if std::io::stdout().is_terminal() {
                message::print(&backups::show(&backup));
            }
            Ok(())
        }),
        Verb::Delete(Deletion::Garbage { older_than }) => on_one_thread(async {
            let archive = keyless_archive(&settings).await?;
            let systems = clusters(&settings, &archive).await?;
            let plan = delete::find_garbage(&archive, &systems, older_than).await?;
            let json = settings.get(&options::JSON)?;
            if !settings.get(&options::CONFIRM)? {
                message::print(&if json { deleting::json(&plan, None) } else { deleting::planned(&plan) });
                return Ok(());
            }
            let Swept { deleted, refused } = delete::delete_garbage(&archive, &plan, &*observer()).await?;
            message::print(&if json { deleting::json(&plan, Some(&deleted)) } else { deleting::done(&plan, &deleted) });
            refused.map_or(Ok(()), Err)
        }),
        Verb::Delete(Deletion::Expiry(request)) => on_all_threads(async {
            let archive = keyless_archive(&settings).await?;
            let (systems, observer) = (clusters(&settings, &archive).await?, observer());
            let plan = expiry::find(&archive, &systems, &request, &*observer).await?;
            let json = settings.get(&options::JSON)?;
            if !settings.get(&options::CONFIRM)? {
                message::print(&if json { retaining::json(&plan, None) } else { retaining::planned(&plan) });
                return Ok(());
            }
            let outcome = expire::expire(&archive, &plan, &*observer).await?;
            message::print(&if json {
                retaining::json(&plan, Some(&outcome))
            } else {
                retaining::done(&plan, &outcome)
            });
            outcome.judge()
        }),
        Verb::Keygen { path, as_identity } => keys::keygen(&path, as_identity),
        Verb::Keys => on_one_thread(async {
            let archive = keyless_archive(&settings).await?;
            let found = data_keys::list(&archive, &clusters(&settings, &archive).await?).await?;
            let json = settings.get(&options::JSON)?;
            message::print(&if json { keys::listed_json(&found) } else { keys::listed(&found) });
            Ok(())
        }),
        Verb::Rekey => on_one_thread(async {
            let archive = archive(&settings).await?;
            let plan = data_keys::plan(&archive, &clusters(&settings, &archive).await?).await?;
            let confirmed = settings.get(&options::CONFIRM)?;
            if confirmed {
                data_keys::rekey(&archive, &plan, &observer()).await?;
            }
            let json = settings.get(&options::JSON)?;
            message::print(&if json { keys::rekeyed_json(&plan, confirmed) } else { keys::rekeyed(&plan, confirmed) });
            plan.judge()
        }),
        Verb::Daemon { pgdata } => on_one_thread(resident::serve(&pgdata, &settings, environment)),
        Verb::WalShow => on_all_threads(async {
            let archive = keyless_archive(&settings).await?;
            let mut found = Vec::new();
            for system in clusters(&settings, &archive).await? {
                found.push(show::show(&archive, system).await?);
            }
            let json = settings.get(&options::JSON)?;
            message::print(&if json { looking::shown_json(&found) } else { looking::shown_text(&found) });
            Ok(())
        }),
        Verb::WalVerify => on_all_threads(async {
            let is_deep = settings.get(&options::DEEP)?;
            let archive = if is_deep { archive(&settings).await? } else { keyless_archive(&settings).await? };
            let memory = Memory::at(settings.find(&options::CACHE_DIR)?);
            let deep = match is_deep {
                true => Some(verify::Deep { workers: workers(&settings)?, memory }),
                false => None,
            };
            let (observer, mut reports) = (observer(), Vec::new());
            for system in clusters(&settings, &archive).await? {
                reports.push(verify::verify(&archive, system, deep.as_ref(), &observer).await?);
            }
            let (memory, address) = (Memory::at(settings.find(&options::CACHE_DIR)?), settings.get(&options::PREFIX)?);
            status::remember(&memory, &storage::address(&address), &reports, Timestamp::now());
            let json = settings.get(&options::JSON)?;
            message::print(&if json { looking::verified_json(&reports) } else { looking::verified_text(&reports) });
            verify::judge(&reports)
        }),
        Verb::Status { pgdata } => return on_all_threads(watching::status(pgdata, &settings, environment)),
        Verb::Exporter { pgdata } => on_all_threads(watching::export(pgdata, &settings, environment)),
        Verb::Report { pgdata } => on_all_threads(watching::report(pgdata, &settings, environment)),
        Verb::Doctor { pgdata } => on_one_thread(async {
            let case = doctor::case(pgdata, &settings, environment)?;
            let report = diagnosis::examine(case, wal_archive(&settings)).await;
            let json = settings.get(&options::JSON)?;
            message::print(&if json { doctor::json(&report) } else { doctor::text(&report) });
            diagnosis::judge(&report)
        }),
        Verb::Config { example: true } => {
            message::print(&reference::example());
            Ok(())
        }
        Verb::MigrateConfig { from } => {
            let variables = match from {
                Some(path) => wal_g::read(&path)?.into_iter().collect(),
                None => environment.clone(),
            };
            message::print(&migration::file(&variables));
            Ok(())
        }
        Verb::Completions { shell } => {
            message::print(&pages::completions(shell));
            Ok(())
        }
        Verb::Man { directory } => write_pages(&directory),
        Verb::Config { example: false } => {
            let json = settings.get(&options::JSON)?;
            message::print(&if json {
                config::json(&settings, environment)
            } else {
                config::table(&settings, environment)
            });
            Ok(())
        }
    };
    done.map(|()| 0)
}

fn wal_push(path: PathBuf, settings: &Settings, environment: &Environment) -> Result<()> {
    let request = push::Request {
        spool: Spool::new(settings.find(&options::SPOOL_DIR)?, &path),
        path,
        data_directory: settings.find(&options::PGDATA)?,
        address: storage::address(&settings.get(&options::PREFIX)?),
        ahead: settings.get(&options::PUSH_AHEAD)? as usize,
        timeout: settings.get(&options::PUSH_TIMEOUT)?,
    };
    if push::went_ahead(&request)? {
        tracing::info!("\"{}\" had been archived ahead of its turn", request.path.display());
        push::leave_word(&request, &Ok(()));
        return Ok(());
    }
    let outcome = on_one_thread(async {
        if let Some(answered) = resident::ask(&request, settings, environment).await? {
            return answered;
        }
        let archive = pushing_archive(settings).await?;
        push::push(&archive, &request).await
    });
    push::leave_word(&request, &outcome);
    outcome
}

fn wal_fetch(
    file: WalFile,
    target: PathBuf,
    ahead: bool,
    settings: &Settings,
    environment: &Environment,
) -> Result<()> {
    let job = fetch::Job::new(fetch::Request {
        file,
        spool: Spool::new(settings.find(&options::SPOOL_DIR)?, &target),
        target,
        data_directory: settings.find(&options::PGDATA)?,
        system_id: settings.find(&options::SYSTEM_ID)?,
        address: sources_address(settings)?,
        prefetch: settings.get(&options::PREFETCH)?,
    })?;
    if ahead {
        return fetch_ahead(&job, settings, environment);
    }
    if fetch::take(&job)? {
        tracing::info!("\"{file}\" had been fetched ahead");
    } else {
        on_one_thread(async {
            let mut sources = wal_sources(settings, environment).await?;
            // A recovery to a target takes a wrong "not there" for the end, for good. A standby asks again.
            if datadir::recovery_mode(Path::new(".")) == Recovery::Targeted {
                sources.legacy = sources.legacy.asked_anew();
            }
            fetch::fetch(&sources, &job).await
        })?;
        tracing::info!("fetched \"{file}\"");
    }
    if job.lacks_prefetcher() {
        start_prefetcher();
    }
    Ok(())
}

fn fetch_ahead(job: &fetch::Job, settings: &Settings, environment: &Environment) -> Result<()> {
    let Some(ahead) = job.ahead() else { return Ok(()) };
    on_all_threads(async {
        let sources = wal_sources(settings, environment).await?;
        prefetch::run(&sources, ahead).await
    })
}

/// Starts this very command again, as the process that fetches ahead. It must outlive this one, and hold none of the
/// server's files: the collector of its log ends only when every copy of its pipe is closed (`SysLoggerMain` in
/// src/backend/postmaster/syslogger.c).
fn start_prefetcher() {
    let start = || -> std::io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).arg(format!("--{}", options::AHEAD.row.name));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
    };
    if let Err(error) = start() {
        tracing::info!("nothing is fetched ahead: {error}");
    }
}

fn write_pages(directory: &Path) -> Result<()> {
    for (name, text) in pages::manual()? {
        let path = directory.join(name);
        std::fs::write(&path, text).during(|| format!("could not write \"{}\"", path.display()))?;
    }
    Ok(())
}

/// The backup that is named.
async fn selected(backup: Selection, settings: &Settings, archive: &Archive) -> Result<Backup> {
    match backup {
        Selection::Latest => catalogue::latest(archive, cluster(settings, archive).await?).await,
        Selection::Id(id) => catalogue::read(archive, cluster(settings, archive).await?, id).await,
        Selection::Legacy(name) => Err(name.not_ours()),
    }
}

async fn cluster(settings: &Settings, archive: &Archive) -> Result<SystemId> {
    match settings.find(&options::SYSTEM_ID)? {
        Some(system) => Ok(system),
        None => archive.only_cluster().await,
    }
}

/// The one that was asked for, or all.
///
/// # Errors
/// [`Kind::Config`] if there is no archive.
async fn clusters(settings: &Settings, archive: &Archive) -> Result<Vec<SystemId>> {
    match settings.find(&options::SYSTEM_ID)? {
        Some(system) => archive.prove(system).await.map(|()| vec![system]),
        None => archive.clusters().await,
    }
}

/// The same, and the base backups of WAL-E and WAL-G: where there are some, ours need not have been begun.
async fn clusters_beside(
    settings: &Settings,
    environment: &Environment,
    archive: &Archive,
) -> Result<(Vec<SystemId>, Vec<Found>)> {
    let ours = clusters(settings, archive).await;
    if ours.as_ref().is_err_and(|error| error.kind() != Kind::Config) {
        return ours.map(|systems| (systems, Vec::new()));
    }
    let legacy = legacy(settings, environment, archive, false).await?;
    match (ours, legacy.backups().await) {
        (Ok(ours), theirs) => Ok((ours, theirs?)),
        // Where theirs could lie is where ours is missed: what is wrong there has been said.
        (Err(error), Err(_)) if legacy.standing() == Standing::Beside => Err(error),
        (Err(error), Ok(theirs)) if theirs.is_empty() => Err(error),
        (Err(_), theirs) => Ok((Vec::new(), theirs?)),
    }
}

/// As many as were asked for, or one for each processor that this process may use (affinity and cgroup quota counted).
pub(super) fn workers(settings: &Settings) -> Result<usize> {
    Ok(match settings.find(&options::WORKERS)? {
        Some(workers) => workers as usize,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Steps back for other processes. Before the first thread starts: on Linux each one has a niceness of its own, which it
/// inherits (sched(7)).
fn step_back(settings: &Settings) -> Result<()> {
    match settings.get(&options::NICE)? {
        0 => Ok(()),
        more => rustix::process::nice(more.cast_signed())
            .map(drop)
            .map_err(std::io::Error::from)
            .during(|| "could not become nicer"),
    }
}

pub(super) fn observer() -> Arc<dyn Observer> {
    observe::choose(std::io::stderr().is_terminal())
}

/// For short commands: a thread pool would cost more to start than it gives.
fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    let outcome = runtime.block_on(work);
    // What still runs is a connection or a blocking read whose result nobody wants any more.
    runtime.shutdown_background();
    outcome
}

fn on_all_threads<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(no_runtime)?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

fn no_runtime(error: std::io::Error) -> Error {
    Error::new(Kind::Local, "could not start the runtime").detail(error.to_string())
}
