//! How `status`, `report` and `exporter` look: from the settings to what is wanted, and from what was found to what is
//! said.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::opening::watched_archive;
use super::{message, standing, verbs};
use crate::archive::Archive;
use crate::config::options;
use crate::config::options::watching;
use crate::config::sources::Environment;
use crate::config::{Location, Settings};
use crate::durable;
use crate::error::{Error, Kind, Result};
use crate::exporter::Exporter;
use crate::metrics::{Samples, textfile};
use crate::report;
use crate::status::verdict::{Limits, findings, worst};
use crate::status::{self, Standing, Wanted, samples};
use crate::storage;
use crate::storage::memory::Memory;

/// Shows how it stands; the exit code is 0, or with `--check` the verdict's.
///
/// # Errors
/// The archive's, if it could not be seen, after all that was seen has been printed; none with `--check`.
pub(super) async fn status(
    data_directory: Option<PathBuf>,
    settings: &Settings,
    environment: &Environment,
) -> Result<u8> {
    let look = Look::of(data_directory, settings, environment).await?;
    let (standing, found) = look.take().await;
    if let Some(directory) = &look.metrics {
        super::accounting::tell(textfile::update(directory, &look.archive, |all| samples::replace(all, found)));
    }
    if settings.get(&watching::CHECK)? {
        let limits = limits(settings)?;
        let found = findings(&standing, &limits);
        message::print(&standing::check(&standing, &found, &limits));
        return Ok(worst(&found).code());
    }
    let json = settings.get(&options::JSON)?;
    message::print(&if json { standing::json(&standing) } else { standing::text(&standing) });
    match standing.unseen_archive {
        Some(error) => Err(error),
        None => Ok(0),
    }
}

/// Shows the same as a page.
///
/// # Errors
/// If the page cannot be written; the archive's, if it could not be seen, after the page has been written.
pub(super) async fn report(
    data_directory: Option<PathBuf>,
    settings: &Settings,
    environment: &Environment,
) -> Result<()> {
    let look = Look::of(data_directory, settings, environment).await?;
    let (standing, _) = look.take().await;
    let page = report::page(&look.archive, &standing, &findings(&standing, &limits(settings)?));
    let text = match settings.get(&options::JSON)? {
        true => serde_json::to_string_pretty(&page)
            .map_err(|error| Error::new(Kind::Bug, "could not describe the archive").detail(error.to_string()))?,
        false => report::html(&page),
    };
    match settings.find(&watching::OUTPUT)? {
        Some(path) => durable::write(&path, format!("{text}\n").as_bytes())?,
        None => message::print(&text),
    }
    match standing.unseen_archive {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Serves the metrics until the process ends.
///
/// # Errors
/// If it cannot listen.
pub(super) async fn export(
    data_directory: Option<PathBuf>,
    settings: &Settings,
    environment: &Environment,
) -> Result<()> {
    let look = Arc::new(Look::of(data_directory, settings, environment).await?);
    let exporter = Exporter::listen(settings.get(&watching::LISTEN)?).await?;
    message::print(&format!("serving http://{}/metrics", exporter.address()?));
    let page = move || {
        let look = look.clone();
        async move { look.page().await }
    };
    match exporter.serve(page).await {}
}

fn limits(settings: &Settings) -> Result<Limits> {
    Ok(Limits {
        backup: [settings.get(&watching::WARN_BACKUP_AGE)?, settings.get(&watching::CRITICAL_BACKUP_AGE)?],
        wal: [settings.get(&watching::WARN_WAL_AGE)?, settings.get(&watching::CRITICAL_WAL_AGE)?],
    })
}

/// All that a look needs.
struct Look {
    opened: Archive,
    wanted: Wanted,
    /// The archive's address for people.
    archive: String,
    metrics: Option<PathBuf>,
}

impl Look {
    async fn of(data_directory: Option<PathBuf>, settings: &Settings, environment: &Environment) -> Result<Look> {
        let location: Location = settings.get(&options::PREFIX)?;
        let wanted = Wanted {
            system: settings.find(&options::SYSTEM_ID)?,
            data_directory,
            spool: settings.find(&options::SPOOL_DIR)?,
            variables: environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            memory: Memory::at(settings.find(&options::CACHE_DIR)?),
            address: storage::address(&location),
        };
        let metrics = settings.find(&watching::METRICS_DIR)?;
        Ok(Look { opened: watched_archive(settings).await?, wanted, archive: location.to_string(), metrics })
    }

    /// Looks, and returns what was found as it is and as metrics.
    async fn take(&self) -> (Standing, Samples) {
        let began = Instant::now();
        let standing = status::look(&self.opened, &self.wanted, &verbs::observer()).await;
        let found = samples::samples(&self.archive, &standing, began.elapsed());
        (standing, found)
    }

    /// What a look finds, and what the other verbs have left.
    async fn page(&self) -> String {
        let (standing, found) = self.take().await;
        if let Some(error) = &standing.unseen_archive {
            tracing::warn!("the archive could not be seen: {error}");
        }
        let mut all = Samples::of(&self.archive);
        if let Some(directory) = &self.metrics {
            match textfile::read(directory, &self.archive) {
                Ok(left) => all = left,
                Err(error) => tracing::warn!("the metrics of the other verbs are left out: {error}"),
            }
        }
        samples::replace(&mut all, found);
        all.text()
    }
}
