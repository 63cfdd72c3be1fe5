//! What waits to be archived, as the directory says: for where no server answers.

use std::fs;
use std::path::Path;

use jiff::Timestamp;

use crate::error::{Context, Result};
use crate::postgres::ready::Ready;

/// The files that are marked as ready in `pg_wal/archive_status`.
///
/// # Errors
/// If this user may not look.
pub fn ready(data_directory: &Path) -> Result<Ready> {
    let (wal, mut ready) = (data_directory.join("pg_wal"), Ready::default());
    let status = wal.join("archive_status");
    let what = || format!("could not read directory \"{}\"", status.display());
    for entry in fs::read_dir(&status).during(what)? {
        let name = entry.during(what)?.file_name();
        let Some(file) = name.to_str().and_then(|name| name.strip_suffix(".ready")) else { continue };
        // What has been archived meanwhile waits no more.
        let Ok(marked) = fs::metadata(status.join(&name)) else { continue };
        let since = marked.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        ready.add(fs::metadata(wal.join(file)).map_or(0, |file| file.len()), since);
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_as_ready_is_counted_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let status = data.path().join("pg_wal/archive_status");
        assert!(ready(data.path()).is_err());
        fs::create_dir_all(&status).unwrap();
        assert_eq!(ready(data.path()).unwrap(), Ready::default());
        for (name, state, size) in [("a", "ready", 3), ("b", "ready", 4), ("c", "done", 9)] {
            fs::write(data.path().join("pg_wal").join(name), vec![0; size]).unwrap();
            fs::write(status.join(format!("{name}.{state}")), "").unwrap();
        }
        let found = ready(data.path()).unwrap();
        assert_eq!((found.files, found.bytes), (2, 7));
        assert!(found.oldest.is_some());
    }
}
