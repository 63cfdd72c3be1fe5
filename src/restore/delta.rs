//! `--delta`: a restore over an old data directory of the same cluster. What is there as the backup has it is kept, all else
//! is removed.
//!
//! A file is taken for the same if its size, the time of its last change, to the nanosecond, and the CRC-32C of its whole
//! content are those of the backup: a restore gives what it has written that time. The control file is always written.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::destination::WAL_DIRECTORY;
use super::plan::{Fate, Plan};
use super::target::MARKER;
use crate::error::{Context, Result};
use crate::observe::{Event, Observer};
use crate::pipeline;
use crate::postgres::control::CONTROL_FILE;

/// What is read of a file at a time.
const PIECE: usize = 1 << 20;

/// Of each file, whether it is there as the backup has it. Reads all that can be the same, on so many threads.
pub(super) fn compare(plan: &Plan, workers: usize, observer: &Arc<dyn Observer>) -> Result<Vec<bool>> {
    pipeline::threads(workers, "compare")?.install(|| {
        let numbers = (0..plan.files().len()).into_par_iter();
        numbers.map(|number| is_same(plan, number, observer)).collect()
    })
}

fn is_same(plan: &Plan, number: usize, observer: &Arc<dyn Observer>) -> Result<bool> {
    let (files, path) = (plan.files(), plan.place(number));
    if files.path(number) == CONTROL_FILE {
        // It waits for the end by another name, which is none of the backup's and is cleared away.
        return Ok(false);
    }
    let what = || format!("could not compare \"{}\"", path.display());
    let metadata = match path.symlink_metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        metadata => metadata.during(what)?,
    };
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let looks_the_same = metadata.is_file()
        && metadata.nlink() == 1
        && metadata.len() == files.size(number)
        && modified == i128::from(files.modified(number));
    if plan.fate(number) != Fate::Copied || !looks_the_same {
        return Ok(false);
    }
    let mut file = File::open(&path).during(what)?;
    let (mut crc, mut piece) = (0, vec![0; PIECE.min(files.size(number) as usize)]);
    loop {
        match file.read(&mut piece).during(what)? {
            0 => break,
            read => crc = crc32c::crc32c_append(crc, &piece[..read]),
        }
    }
    let is_same = crc == files.crc32c(number);
    if is_same {
        observer.notice(Event::Advanced(files.size(number)));
        let permissions = fs::Permissions::from_mode(files.mode(number));
        fs::set_permissions(&path, permissions).during(what)?;
    }
    Ok(is_same)
}

/// Removes all that the plan neither keeps nor makes a directory of. Of a tablespace's directory only what is this
/// cluster's: other major versions may have theirs beside it.
pub(super) fn clean(plan: &Plan) -> Result<()> {
    let files = plan.files();
    let kept = (0..files.len()).filter(|&number| plan.fate(number) == Fate::Kept).map(|number| files.path(number));
    let belongs = Belongs {
        directories: files.directories().iter().map(|directory| directory.path.as_str()).collect(),
        kept: kept.collect(),
    };
    let destination = plan.destination();
    belongs.clean(destination.root(), "", &|name| name == MARKER)?;
    for (oid, place) in destination.tablespaces() {
        let path = format!("pg_tblspc/{oid}");
        let is_foreign = |name: &str| !belongs.directories.contains(format!("{path}/{name}").as_str());
        belongs.clean(place, &path, &is_foreign)?;
    }
    destination.wal().map_or(Ok(()), |wal| belongs.clean(wal, WAL_DIRECTORY, &|_| false))
}

/// What may stay, by its path in the backup.
struct Belongs<'a> {
    directories: HashSet<&'a str>,
    kept: HashSet<String>,
}

impl Belongs<'_> {
    /// Cleans the directory that is `path` in the backup, and does not touch what `is_spared` holds for.
    fn clean(&self, place: &Path, path: &str, is_spared: &dyn Fn(&str) -> bool) -> Result<()> {
        let what = || format!("could not clear \"{}\"", place.display());
        for entry in fs::read_dir(place).during(what)? {
            let entry = entry.during(what)?;
            let (place, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if is_spared(&name) {
                continue;
            }
            let path = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
            let kind = entry.file_type().during(what)?;
            if kind.is_dir() && self.directories.contains(path.as_str()) {
                self.clean(&place, &path, &|_| false)?;
            } else if kind.is_dir() {
                fs::remove_dir_all(&place).during(what)?;
            } else if !self.kept.contains(&path) {
                fs::remove_file(&place).during(what)?;
            }
        }
        Ok(())
    }
}
