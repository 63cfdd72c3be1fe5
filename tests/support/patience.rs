//! How long a test waits: whatever never comes fails its test by name, and does not hang it.

use std::time::{Duration, Instant};

/// The longest wait for what another process, a server or a service of the tests is to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the condition holds; `what` is said where it never does.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
