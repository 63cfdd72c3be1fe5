//! Is what has been written the backup that was meant, and can a server recover from it? Before the control file gets its
//! name. Neither WAL-E nor WAL-G stores checksums: what could not be checked is said.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::unpack::Unpacked;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::basebackups::Writer;
use crate::legacy::parts;
use crate::postgres::control::{CONTROL_FILE, ControlFile};
use crate::postgres::label::BackupLabel;
use crate::postgres::page::PAGE_SIZE;
use crate::postgres::relation::SEGMENT_PAGES;
use crate::restore::base::Base;
use crate::restore::destination::Destination;
use crate::restore::recovery::BACKUP_LABEL;

/// What the user should know, a sentence each.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What was checked, and what could not be.
    pub(super) checked: Vec<String>,
    /// What may be wrong.
    pub(super) doubts: Vec<String>,
}

/// Looks at all that can be looked at.
///
/// # Errors
/// [`Kind::Incomplete`] if something is missing without which no server recovers, [`Kind::Refused`] if this is another
/// cluster than it was to be, [`Kind::Corrupt`] if it contradicts itself.
pub(super) fn judge(base: &Base, destination: &Destination, unpacked: &Unpacked, is_listed: bool) -> Result<Verdict> {
    let control = control_file(base, destination)?;
    if !destination.root().join("PG_VERSION").exists() {
        return Err(lacks(base, "PG_VERSION"));
    }
    check_label(base, destination, &control)?;
    let mut verdict = Verdict::default();
    verdict.checked.push(match (base.writer, is_listed) {
        (Some(Writer::WalE), _) => {
            "WAL-E keeps neither checksums nor a list of files: checked were its archives, their number and the sum of \
             their sizes, and global/pg_control"
                .to_owned()
        }
        (_, true) => "WAL-G keeps no checksums: checked were its archives, that every file of its list is there, and \
                      global/pg_control"
            .to_owned(),
        (_, false) => "WAL-G keeps no checksums, and of this backup no list of files: checked were its archives and \
                       global/pg_control, and not whether every file is there"
            .to_owned(),
    });
    if base.writer == Some(Writer::WalE)
        && let Some(expected) = base.plain_size
    {
        parts::check_tally(unpacked.tally, expected)?;
        let shortfall = expected - unpacked.tally.bytes;
        if shortfall > 0 {
            verdict.checked.push(format!(
                "files of {shortfall} bytes were deleted while WAL-E made the backup, and are not in it"
            ));
        }
    }
    pages(destination, unpacked, &control, &mut verdict)?;
    Ok(verdict)
}

fn lacks(base: &Base, what: &str) -> Error {
    Error::new(Kind::Incomplete, format!("backup {} has no {what}", base.name))
}

fn control_file(base: &Base, destination: &Destination) -> Result<ControlFile> {
    let path = destination.resolve(CONTROL_FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(lacks(base, CONTROL_FILE)),
        bytes => bytes.during(|| format!("could not read \"{}\"", path.display()))?,
    };
    let control = ControlFile::parse(&bytes)?;
    let is = |what: String, expected: String| {
        Err(Error::new(Kind::Refused, format!("backup {} is that of another cluster", base.name))
            .detail(format!("its global/pg_control has {what}, its WAL {expected}"))
            .hint("Two clusters may have written to one archive: restore another backup."))
    };
    if control.system_id != base.system_id {
        return is(format!("system identifier {}", control.system_id), base.system_id.to_string());
    }
    if control.segment_size != base.segment_size {
        let bytes = base.segment_size.bytes().to_string();
        return is(format!("WAL segments of {} bytes", control.segment_size.bytes()), bytes);
    }
    if control.version != base.postgres {
        return is(format!("PostgreSQL {}", control.version), base.postgres.to_string());
    }
    Ok(control)
}

/// Without `backup_label` a server would begin at the last checkpoint before the copy was made, and open a database in
/// pieces without a word. Only a server that was shut down can do without.
fn check_label(base: &Base, destination: &Destination, control: &ControlFile) -> Result<()> {
    let path = destination.root().join(BACKUP_LABEL);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound && control.shut_down => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(lacks(base, BACKUP_LABEL)),
        text => text.during(|| reading(&path))?,
    };
    let label = BackupLabel::parse(&text)?;
    if label.start == base.start && label.timeline == base.timeline {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("backup {} contradicts itself", base.name)).detail(format!(
        "its backup_label says that it begins at {} on timeline {}, its name and sentinel say {} on {}",
        label.start, label.timeline.0, base.start, base.timeline.0
    )))
}

fn reading(path: &Path) -> String {
    format!("could not read \"{}\"", path.display())
}

/// So many pages are named.
const NAMED: usize = 3;

fn pages(destination: &Destination, unpacked: &Unpacked, control: &ControlFile, verdict: &mut Verdict) -> Result<()> {
    if !control.data_checksums {
        verdict.checked.push("the cluster has no page checksums to verify".to_owned());
        return Ok(());
    }
    if control.page_size as usize != PAGE_SIZE || control.relation_segment_pages != SEGMENT_PAGES {
        let text = "page checksums were not verified: the server was built with other sizes than usual";
        verdict.checked.push(text.to_owned());
        return Ok(());
    }
    let (count, names) = unpacked.suspects.judge(destination, NAMED)?;
    if count == 0 && !unpacked.suspects.is_cut() {
        verdict.checked.push("all page checksums are right".to_owned());
        return Ok(());
    }
    const ADVICE: &str = "when the recovery has ended, run pg_amcheck --all";
    let (more, least) = match unpacked.suspects.is_cut() {
        _ if count == 0 => {
            verdict.doubts.push(format!("more pages had a wrong checksum than were looked at again: {ADVICE}"));
            return Ok(());
        }
        true => (" and others", "at least "),
        false if count > names.len() => (" and others", ""),
        false => ("", ""),
    };
    verdict.doubts.push(format!(
        "{least}{count} pages have a wrong checksum: they were being written while they were copied, and the WAL puts them \
         right, or they are damaged: {}{more}; {ADVICE}",
        names.join(", ")
    ));
    Ok(())
}
