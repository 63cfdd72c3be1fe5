//! How long the phases of a piece of work took, and what the process has needed for them.

use std::time::{Duration, Instant};

/// Measures phases that follow each other.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
    laps: Vec<Lap>,
}

/// A phase that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lap {
    /// What was done, in a word.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

impl Stopwatch {
    /// Begins with the first phase.
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now(), laps: Vec::new() }
    }

    /// The phase that is under way ends, under this name, and the next one begins.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push(Lap { name, took: now - self.since });
        self.since = now;
    }

    /// All phases that are over, in order.
    pub fn laps(self) -> Vec<Lap> {
        self.laps
    }
}

/// The most memory that this process has had resident so far, in bytes (`VmHWM` in proc(5)); `None` where /proc is not
/// mounted.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_own_time_under_its_name() {
        let mut watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(5));
        watch.lap("one");
        watch.lap("two");
        let laps = watch.laps();
        assert_eq!(laps.iter().map(|lap| lap.name).collect::<Vec<_>>(), ["one", "two"]);
        assert!(laps[0].took >= Duration::from_millis(5));
    }

    #[test]
    fn the_peak_is_at_least_what_is_held() {
        let held = vec![1u8; 8 << 20];
        assert!(peak_memory().unwrap() >= held.iter().map(|&byte| u64::from(byte)).sum());
    }
}
