//! OpenPGP messages, decrypted by the program gpg.
//!
//! Data goes through its pipes, and so does a passphrase; neither is ever an argument or a temporary file. A key that is
//! given, instead of one of the user's keyring, is brought into a keyring of its own, which is gone with this process.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::crypt::Zeroizing;
use crate::error::{Context, Error, Kind, Result};
use crate::legacy::codec::{carrying, error_of};

/// gpg that takes and gives nothing for so long, though it could, hangs: it asks somebody who is not there for a passphrase.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether it goes on, and whether it has ended.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// So much of what gpg says is kept.
const KEPT_OF_ITS_WORDS: u64 = 16 << 10;

/// So many bytes go through a pipe at once: what Linux gives a pipe.
const AT_ONCE: usize = 64 << 10;

/// gpg with a keyring that has the secret key.
#[derive(Clone)]
pub struct Gpg {
    home: Option<Arc<Home>>,
    passphrase: Option<Arc<str>>,
}

impl fmt::Debug for Gpg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gpg")
    }
}

/// What the directories of keyrings are called.
const PREFIX: &str = "walden-gpg-";

/// The file in one that its process has locked for as long as it lives.
const LOCK: &str = ".walden-lock";

/// One without a lock is being made, unless it is older than that.
const MADE_WITHIN: Duration = Duration::from_secs(60);

/// A keyring for this process alone.
struct Home {
    directory: tempfile::TempDir,
    _lock: File,
}

impl Home {
    fn make() -> Result<Home> {
        let what = || "could not make a directory for a keyring";
        sweep();
        let private = std::fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir().during(what)?;
        let lock = File::create(directory.path().join(LOCK)).during(what)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from).during(what)?;
        Ok(Home { directory, _lock: lock })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        end_agent(self.directory.path());
    }
}

/// The agent would go on for a while in a directory that is no more. Best effort: then it ends by itself.
fn end_agent(home: &Path) {
    let mut command = Command::new("gpgconf");
    command.arg("--homedir").arg(home).args(["--kill", "all"]);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Removes the keyrings of processes that were killed, as PostgreSQL's shutdown does to a `restore_command`: there is a secret
/// key in each. Best effort.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            continue;
        }
        let is_left = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => {
                metadata.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age > MADE_WITHIN)
            }
        };
        if is_left {
            end_agent(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Gpg {
    /// With the keyring of the user who runs this, and the agent that has its passphrase.
    pub fn of_the_keyring() -> Gpg {
        Gpg { home: None, passphrase: None }
    }

    /// With this armored secret key, and the passphrase that protects it, if one does.
    ///
    /// # Errors
    /// [`Kind::Config`] if gpg does not take it for a secret key; [`Kind::Local`] if gpg cannot be run.
    pub fn with_key(key: &[u8], passphrase: Option<String>) -> Result<Gpg> {
        let gpg = Gpg { home: Some(Arc::new(Home::make()?)), passphrase: passphrase.map(Into::into) };
        let mut import = gpg.start(&["--import"], io::Cursor::new(Zeroizing::new(key.to_vec())))?;
        let outcome = import.read_to_end(&mut Vec::new());
        let words = import.words();
        match outcome {
            Ok(_) if words.contains("[GNUPG:] IMPORT_OK 17 ") => Ok(gpg),
            Err(error) if error_of_kind(&error, Kind::Local) => Err(error_of(error)),
            _ => Err(Error::new(Kind::Config, "the key of OpenPGP cannot be used")
                .detail("gpg does not take it for an armored secret key")
                .hint("Name a file with what gpg --armor --export-secret-keys prints by WALDEN_LEGACY_PGP_KEY_FILE.")),
        }
    }

    /// Decrypts a message.
    ///
    /// # Errors
    /// [`Kind::Local`] if gpg cannot be run.
    pub(super) fn decrypt(&self, source: impl Read + Send + 'static) -> Result<Running> {
        self.start(&["--decrypt"], source)
    }

    fn start(&self, arguments: &[&str], source: impl Read + Send + 'static) -> Result<Running> {
        let mut command = Command::new("gpg");
        // In English, for its words are told on, and with lines for programs, which are judged by.
        command.env("LC_ALL", "C").args(["--batch", "--no-tty", "--quiet", "--status-fd", "2"]);
        if let Some(home) = &self.home {
            command.arg("--homedir").arg(home.directory.path()).args([
                "--pinentry-mode",
                "loopback",
                "--passphrase-fd",
                "0",
            ]);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            Error::new(Kind::Local, "could not start the program gpg")
                .detail(error.to_string())
                .hint("Install it (apt-get install gpg gpg-agent), where PATH finds it.")
        })?;
        // gpg reads the first line as the passphrase, and what follows as the data.
        let first = self.home.as_ref().map(|_| format!("{}\n", self.passphrase.as_deref().unwrap_or_default()));
        Running::of(child, first.unwrap_or_default().into_bytes(), source)
    }
}

fn error_of_kind(error: &io::Error, kind: Kind) -> bool {
    crate::legacy::codec::carried(error).is_some_and(|ours| ours.kind() == kind)
}

/// A gpg that runs. Killed when this is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    output: std::process::ChildStdout,
    feeder: Option<JoinHandle<io::Result<()>>>,
    listener: Option<JoinHandle<String>>,
    words: String,
}

/// What the threads around a gpg tell each other.
struct Shared {
    child: Mutex<Child>,
    /// Bytes that went either way.
    moved: AtomicU64,
    /// Whether it is not gpg that is waited for: its source has nothing yet, or nobody reads.
    excused: [AtomicBool; 2],
    over: AtomicBool,
    hung: AtomicBool,
}

const SOURCE: usize = 0;
const READER: usize = 1;

impl Shared {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn excuse(&self, who: usize, excused: bool) {
        self.excused[who].store(excused, Ordering::Relaxed);
    }

    /// Kills a gpg that does not go on.
    fn watch(&self) {
        let (mut moved, mut since) = (0, Instant::now());
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_AGAIN_AFTER);
            let now = self.moved.load(Ordering::Relaxed);
            if now != moved || self.excused.iter().any(|excused| excused.load(Ordering::Relaxed)) {
                (moved, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                self.hung.store(true, Ordering::Relaxed);
                // Fails only if it has ended.
                let _ = self.child().kill();
                return;
            }
        }
    }
}

impl Running {
    fn of(mut child: Child, first: Vec<u8>, source: impl Read + Send + 'static) -> Result<Running> {
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(words)) = pipes else {
            return Err(Error::new(Kind::Bug, "gpg has no pipes"));
        };
        let shared = Arc::new(Shared {
            child: Mutex::new(child),
            moved: AtomicU64::new(0),
            excused: [AtomicBool::new(false), AtomicBool::new(true)],
            over: AtomicBool::new(false),
            hung: AtomicBool::new(false),
        });
        let (feeding, watching) = (shared.clone(), shared.clone());
        std::thread::spawn(move || watching.watch());
        Ok(Running {
            shared,
            output,
            feeder: Some(std::thread::spawn(move || feed(&feeding, input, &first, source))),
            listener: Some(std::thread::spawn(move || listen(words))),
            words: String::new(),
        })
    }

    /// What it said, once it has ended.
    fn words(&mut self) -> &str {
        if let Some(listener) = self.listener.take() {
            self.words = listener.join().unwrap_or_default();
        }
        &self.words
    }

    /// Its output has ended: is it well?
    fn end(&mut self) -> io::Result<()> {
        let Some(feeder) = self.feeder.take() else { return Ok(()) };
        let status = self.wait()?;
        // gpg that has ended takes nothing any more; what the source says counts before what gpg makes of it.
        if let Ok(Err(error)) = feeder.join() {
            return Err(error);
        }
        let hung = self.shared.hung.load(Ordering::Relaxed);
        let importing = self.words().contains("[GNUPG:] IMPORT_RES");
        match hung {
            true => Err(carrying(stuck())),
            false if status.success() && (importing || self.words.contains("[GNUPG:] DECRYPTION_OKAY")) => Ok(()),
            false => Err(carrying(refused(&self.words))),
        }
    }

    /// It has closed its output, and ends now.
    fn wait(&self) -> io::Result<ExitStatus> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.shared.child().try_wait()? {
                return Ok(status);
            }
            if since.elapsed() > PATIENCE {
                let _ = self.shared.child().kill();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.shared.excuse(READER, false);
        let outcome = self.output.read(buffer);
        self.shared.excuse(READER, true);
        let count = outcome?;
        self.shared.moved.fetch_add(count as u64, Ordering::Relaxed);
        if count == 0 && !buffer.is_empty() {
            self.end()?;
        }
        Ok(count)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut child = self.shared.child();
        // Both fail only if it has ended, and has been waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Gives gpg what the source has. That gpg takes no more is for its exit status to explain.
fn feed(shared: &Shared, mut input: ChildStdin, first: &[u8], mut source: impl Read) -> io::Result<()> {
    if input.write_all(first).is_err() {
        return Ok(());
    }
    let mut buffer = vec![0; AT_ONCE];
    loop {
        shared.excuse(SOURCE, true);
        let outcome = source.read(&mut buffer);
        shared.excuse(SOURCE, false);
        let count = match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        };
        if count == 0 || input.write_all(&buffer[..count]).is_err() {
            return Ok(());
        }
        shared.moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Hears gpg out, and keeps the beginning.
fn listen(mut words: impl Read) -> String {
    let mut kept = Vec::new();
    // What cannot be read was not said.
    let _ = words.by_ref().take(KEPT_OF_ITS_WORDS).read_to_end(&mut kept);
    let _ = io::copy(&mut words, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

fn stuck() -> Error {
    Error::new(Kind::Local, "the program gpg did not go on")
        .detail(format!("it took and gave nothing for {} s", PATIENCE.as_secs()))
        .hint("Let gpg-agent know the passphrase, or give the key by WALDEN_LEGACY_PGP_KEY_FILE.")
}

/// Why gpg did not decrypt. A key that it knows and cannot use is told in the same words as one that it does not know, but
/// for a line that says that it was considered (doc/DETAILS of GnuPG).
fn refused(words: &str) -> Error {
    let plain: Vec<&str> = words.lines().filter(|line| !line.starts_with("[GNUPG:]")).collect();
    let plain = plain.join("; ");
    let has_key = !plain.contains("No secret key");
    if has_key
        && ["pinentry", "agent", "Inappropriate ioctl", "Operation cancelled", "Timeout"]
            .iter()
            .any(|word| plain.contains(word))
    {
        return Error::new(Kind::Local, "the program gpg could not ask for the passphrase of the secret key")
            .detail(plain)
            .hint("Let gpg-agent know it, or give the key by WALDEN_LEGACY_PGP_KEY_FILE.");
    }
    if has_key {
        return Error::new(Kind::Corrupt, "the object cannot be decrypted by gpg").detail(plain);
    }
    match words.contains("[GNUPG:] KEY_CONSIDERED ") {
        true => Error::new(Kind::Config, "gpg was not given the passphrase of the secret key")
            .detail(plain)
            .hint("Set WALG_PGP_KEY_PASSPHRASE, or let gpg-agent know it."),
        false => Error::new(Kind::Config, "gpg has no secret key for the object")
            .detail(plain)
            .hint("Import it into the keyring of this user, or name a file with it by WALDEN_LEGACY_PGP_KEY_FILE."),
    }
}
