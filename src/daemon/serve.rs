//! The daemon's side of the conversation.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Answer, Order, TAKEN_WITHIN, is_ours, read, socket, write};
use crate::archive::Archive;
use crate::error::{Context, Error, Kind, Result};
use crate::observe::repeats::REPEATED;
use crate::wal::push::{self, Request, Underway};
use crate::wal::spool::Spool;

/// What a daemon is given.
pub struct Service<O, S> {
    /// The spool of its cluster.
    pub spool: Spool,
    /// The archive's address, for notes.
    pub address: String,
    /// Files that are archived ahead of their turn, in one go.
    pub ahead: usize,
    /// How long one file may take.
    pub timeout: Duration,
    /// Opens the archive.
    pub open: O,
    /// Tells what the settings say by now: where they name files, those may have changed.
    pub settings: S,
}

/// Takes orders until the process ends.
///
/// # Errors
/// [`Kind::Refused`] if the spool has a daemon; otherwise if it cannot listen there.
pub async fn serve<O, S, F>(service: Service<O, S>) -> Result<()>
where
    O: Fn() -> F,
    F: Future<Output = Result<Archive>>,
    S: Fn() -> String,
{
    let (_lock, listener) = listen(&service.spool)?;
    let mut opened: Option<(String, Archive)> = None;
    let underway = Underway::default();
    // One look-ahead at a time; more would do the same work.
    let turn = Arc::new(Mutex::new(()));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if !is_ours(&stream) {
            continue;
        }
        let mut stream = BufReader::new(stream);
        let Some(order) = timeout(TAKEN_WITHIN, read::<Order>(&mut stream)).await.ok().flatten() else { continue };
        let settings = (service.settings)();
        if order.settings != settings {
            refuse(stream.get_mut()).await;
            continue;
        }
        let archive = match &opened {
            Some((for_settings, archive)) if *for_settings == settings => archive.clone(),
            _ => match (service.open)().await {
                Ok(archive) => opened.insert((settings, archive)).1.clone(),
                Err(error) => {
                    tracing::warn!(target: REPEATED, "could not open the archive: {error}");
                    refuse(stream.get_mut()).await;
                    continue;
                }
            },
        };
        let request = request(&service, order);
        tokio::spawn(carry_out(stream, archive, request, underway.clone(), turn.clone()));
    }
}

fn request<O, S>(service: &Service<O, S>, order: Order) -> Request {
    Request {
        path: order.path,
        data_directory: order.data_directory,
        address: service.address.clone(),
        spool: service.spool.clone(),
        ahead: service.ahead,
        timeout: service.timeout,
    }
}

async fn refuse(stream: &mut UnixStream) {
    tracing::debug!("an order was not for this daemon");
    // Whoever has hung up does it himself anyway.
    let _ = timeout(TAKEN_WITHIN, write(stream, &Answer::NotForMe)).await;
}

async fn carry_out(
    mut stream: BufReader<UnixStream>,
    archive: Archive,
    request: Request,
    underway: Underway,
    turn: Arc<Mutex<()>>,
) {
    let taken = timeout(TAKEN_WITHIN, write(stream.get_mut(), &Answer::Taken)).await.ok().flatten();
    if taken.is_none() {
        return;
    }
    let answer = match push::asked(&archive, &request, &underway).await {
        Ok(()) => Answer::Archived,
        Err(error) => Answer::Failed {
            kind: error.kind(),
            what: error.what().to_owned(),
            detail: error.cause().map(str::to_owned),
            hint: error.advice().map(str::to_owned),
        },
    };
    let archived = matches!(answer, Answer::Archived);
    let _ = timeout(TAKEN_WITHIN, write(stream.get_mut(), &answer)).await;
    drop(stream);
    if let (true, Ok(_turn)) = (archived, turn.try_lock()) {
        push::ahead(&archive, &request, &underway).await;
    }
}

/// The socket of the spool, and the lock that keeps others from it.
fn listen(spool: &Spool) -> Result<(File, UnixListener)> {
    let socket = socket(spool);
    let what = || format!("could not listen at \"{}\"", socket.display());
    std::fs::create_dir_all(socket.parent().unwrap_or(Path::new("."))).during(what)?;
    let lock = File::create(socket.with_extension("lock")).during(what)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(Error::new(Kind::Refused, what()).detail("another daemon serves this cluster"));
    }
    // What bears the name is left from a daemon that is gone.
    let _ = std::fs::remove_file(&socket);
    // A socket's path may have 107 bytes, a data directory's more: the directory is entered, and the rest is short.
    let name = PathBuf::from(socket.file_name().unwrap_or_default());
    std::env::set_current_dir(socket.parent().unwrap_or(Path::new("."))).during(what)?;
    Ok((lock, UnixListener::bind(name).during(what)?))
}
