//! The daemon: a resident helper of `wal-push` for one cluster, which has its connections and credentials ready.
//!
//! `wal-push` hands its order over on a socket in the spool, and does it itself wherever the daemon cannot be reached,
//! has other settings, or dies over it: what is answered never depends on whether there is a daemon. The two ends of the
//! conversation are [`ask`] and [`serve`]; each message is a line of JSON.

mod serve;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

pub use self::serve::{Service, serve};
use crate::error::{Error, Kind};
use crate::wal::spool::Spool;

/// A daemon takes an order within this time, or is not waited for.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);

/// How much longer than the push itself its answer may take.
const MARGIN: Duration = Duration::from_secs(5);

/// No message is longer.
const LONGEST: u64 = 64 << 10;

/// What `wal-push` wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Stands for the program's version and for everything that its settings say: see [`serve`].
    pub settings: String,
    /// The WAL file, absolute.
    pub path: PathBuf,
    /// The data directory, if one was named.
    pub data_directory: Option<PathBuf>,
}

/// What the daemon says: first that it has taken the order, or has not, and then what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Answer {
    Taken,
    NotForMe,
    Archived,
    Failed { kind: Kind, what: String, detail: Option<String>, hint: Option<String> },
}

/// Where the daemon of a spool listens.
pub fn socket(spool: &Spool) -> PathBuf {
    spool.path("daemon")
}

/// Has a daemon do it. `None`: there is none, or none that does it; then it remains to be done.
pub async fn ask(socket: &Path, order: &Order, longest: Duration) -> Option<Result<(), Error>> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return None,
        Err(error) => {
            tracing::debug!("no daemon at \"{}\": {error}", socket.display());
            return None;
        }
    };
    // Whoever can write to the spool could listen there.
    if !is_ours(&stream) {
        tracing::warn!("the daemon at \"{}\" is another user's, and not asked", socket.display());
        return None;
    }
    let mut stream = BufReader::new(stream);
    timeout(TAKEN_WITHIN, write(stream.get_mut(), order)).await.ok()??;
    match timeout(TAKEN_WITHIN, read(&mut stream)).await.ok()?? {
        Answer::Taken => {}
        _ => return None,
    }
    match timeout(longest + MARGIN, read(&mut stream)).await {
        Ok(Some(Answer::Archived)) => Some(Ok(())),
        Ok(Some(Answer::Failed { kind, what, detail, hint })) => {
            let error = detail.into_iter().fold(Error::new(kind, what), Error::detail);
            Some(Err(hint.into_iter().fold(error, Error::hint)))
        }
        // It has died over it. Once more does no harm.
        Ok(_) => None,
        Err(_) => {
            Some(Err(Error::new(Kind::Unreachable, format!("the daemon at \"{}\" does not answer", socket.display()))
                .hint("Restart walden daemon; without one, wal-push does its work itself.")))
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn write(stream: &mut UnixStream, message: &impl Serialize) -> Option<()> {
    let mut line = serde_json::to_vec(message).ok()?;
    line.push(b'\n');
    stream.write_all(&line).await.ok()
}

/// The next message; `None` if there is none that can be understood.
async fn read<T: serde::de::DeserializeOwned>(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<T> {
    let mut line = Vec::new();
    stream.take(LONGEST).read_until(b'\n', &mut line).await.ok()?;
    serde_json::from_slice(&line).ok()
}
