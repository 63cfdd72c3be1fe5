//! How WAL is shown.

use serde_json::json;

use crate::wal::backfill::Backfilled;
use crate::wal::segment::WalFile;

/// A line for each file that was archived, and one about the others.
pub(super) fn backfilled(done: &Backfilled) -> String {
    let lines: Vec<String> = done.archived.iter().map(|file| format!("archived {file}\n")).collect();
    let Backfilled { archived, already, passed_over } = done;
    let passed_over = match passed_over.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} is being written, or kept for later use"),
        several => format!("; {} segments are being written, or kept for later use", several.len()),
    };
    format!("{}{} files archived, {already} were in the archive{passed_over}\n", lines.concat(), archived.len())
}

/// An object: the names of the files that were `archived` and `passed_over`, and the number of those that were `already`
/// there.
pub(super) fn backfilled_json(done: &Backfilled) -> String {
    let names = |files: &[WalFile]| files.iter().map(WalFile::to_string).collect::<Vec<String>>();
    let Backfilled { archived, already, passed_over } = done;
    format!("{:#}", json!({ "archived": names(archived), "already": already, "passed_over": names(passed_over) }))
}
