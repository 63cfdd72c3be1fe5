//! What a signal makes of the exit code, where PostgreSQL would misread the death of a process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGABRT, SIGHUP, SIGQUIT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

use crate::error::{Caller, INTERRUPTED, Kind, exit_code};

/// From now on the process ends with a code of ours, at once, where these signals would have killed it.
///
/// `SIGABRT` is how Rust ends a process that gets no memory (`handle_alloc_error`). The others are what a server sends to
/// the group of its archiver, and what people send: for `wal-push` alone, because PostgreSQL counts a failed
/// `archive_command` only if it ends by itself, while it takes the death of a `restore_command` by `SIGTERM` for its own
/// shutdown (`RestoreArchivedFile` in src/backend/access/transam/xlogarchive.c). What the server has us ignore (`SIGINT`)
/// stays ignored.
pub(super) fn answer_for(caller: Caller) {
    let shutdown = |signal, code: u8| {
        if let Err(error) = register_conditional_shutdown(signal, code.into(), Arc::new(AtomicBool::new(true))) {
            tracing::debug!("signal {signal} keeps its own way to end the process: {error}");
        }
    };
    shutdown(SIGABRT, exit_code(Kind::Local, caller));
    if caller == Caller::Archiver {
        [SIGTERM, SIGHUP, SIGQUIT].into_iter().for_each(|signal| shutdown(signal, INTERRUPTED));
    }
}
