//! Files with secrets: read only if they are nobody else's.

use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use age::secrecy::zeroize::Zeroizing;
use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};

/// Reads the beginning of a file with a secret, `longest` bytes at most. `hint` says how to name another file.
///
/// # Errors
/// [`Kind::Config`] if others can read it; an error of the local machine if it cannot be read.
pub fn read_private(path: &Path, longest: u64, hint: &str) -> Result<Zeroizing<Vec<u8>>> {
    let shown = path.display();
    let what = || format!("could not read the key file \"{shown}\"");
    // A pipe that nobody writes to would not even open.
    let open = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = open.during(what).map_err(|error| error.hint(hint))?;
    let metadata = file.metadata().during(what)?;
    if !metadata.is_file() {
        return Err(Error::new(Kind::Config, format!("the key file \"{shown}\" is not a file")).hint(hint));
    }
    if !is_private(&metadata) {
        return Err(Error::new(Kind::Config, format!("the key file \"{shown}\" is open to others"))
            .detail("it must be a file of this user, mode 0600, or of root, mode 0640")
            .hint(format!("Run chmod 600 '{shown}' as its owner.")));
    }
    // With room from the beginning: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(longest as usize + 1));
    file.take(longest).read_to_end(&mut content).during(what)?;
    Ok(content)
}

/// The rule that PostgreSQL has for its own key files (`check_ssl_key_file_permissions` in
/// src/backend/libpq/be-secure-common.c). Root reads those of other users, too: a restore for the server's user may be root's.
fn is_private(file: &Metadata) -> bool {
    let me = rustix::process::geteuid();
    let own = (file.uid() == me.as_raw() || me.is_root()) && file.mode() & 0o077 == 0;
    let roots = file.uid() == 0 && file.mode() & 0o037 == 0;
    own || roots
}
