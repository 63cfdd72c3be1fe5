//! The command line is the test's hand: one walden process, in a clean environment, with its end asserted.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::random::times;
use super::user::User;

/// No test's walden runs longer; one that does hangs, and fails its test.
const DEADLINE: Duration = Duration::from_secs(300);

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_walden"))
}

/// A walden that has not been started yet.
#[derive(Debug)]
pub struct Walden {
    command: Command,
}

impl Walden {
    /// Nothing is inherited from the environment of the tests.
    pub fn new(directory: &Path) -> Walden {
        Walden::at(program(), directory)
    }

    /// A copy of the program at another place.
    pub fn at(program: &Path, directory: &Path) -> Walden {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::null()).env_clear();
        // Without the second line the AWS SDK looks for a metadata service wherever no identity is given.
        command.env("HOME", directory).env("PATH", "/usr/bin:/bin").env("AWS_EC2_METADATA_DISABLED", "true");
        // Two tests on one machine must not know each other's stores.
        command.env("WALDEN_CACHE_DIR", directory.join("cache"));
        Walden { command }
    }

    pub fn user(mut self, user: Option<User>) -> Walden {
        if let Some(user) = user {
            user.runs(&mut self.command);
        }
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Walden {
        self.command.env(name, value);
        self
    }

    pub fn envs(mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Walden {
        self.command.envs(variables);
        self
    }

    /// Without these variables.
    pub fn without(mut self, names: &[&str]) -> Walden {
        for name in names {
            self.command.env_remove(name);
        }
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Walden {
        self.command.args(args);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Ran {
        let command = format!("{:?}", self.command);
        Ran::of(command, &self.output())
    }

    /// Runs it to its end, for output that is not text.
    pub fn output(self) -> Output {
        assert_cmd::Command::from_std(self.command).timeout(DEADLINE).output().unwrap()
    }

    /// Runs it to its end and watches how much memory it takes: the peak of what was resident, in bytes, as the kernel
    /// counts it (`VmHWM` in proc(5)), looked at every millisecond. A peak in the last millisecond goes unseen; what a
    /// process needs for its work it has long before.
    pub fn run_measured(self) -> (Ran, u64) {
        let command = format!("{:?}", self.command);
        let (ran, peak) = self.run_watched();
        (ran, peak.unwrap_or_else(|| panic!("{command} was too quick to be measured")))
    }

    /// The same of what may end before it is looked at for the first time, as it can on a busy machine: then there is no
    /// peak. `WALDEN_TEST_TIMES=12` gives it an hour, for what is made so much larger by hand.
    pub fn run_watched(mut self) -> (Ran, Option<u64>) {
        let command = format!("{:?}", self.command);
        let deadline = DEADLINE * times(1) as u32;
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (pid, began) = (Pid::from_child(&child), Instant::now());
        let mut peak = None;
        while child.try_wait().unwrap().is_none() {
            peak = peak_of(pid).or(peak);
            assert!(began.elapsed() < deadline, "{command} hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().unwrap();
        (Ran::of(command, &output), peak)
    }

    /// Starts it and lets it run, mute; for tests that end it themselves.
    pub fn spawn(mut self) -> Child {
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// Runs what can be run again, until it is slow enough to be measured.
pub fn measured(walden: impl Fn() -> Walden) -> (Ran, u64) {
    for _ in 0..20 {
        if let (ran, Some(peak)) = walden().run_watched() {
            return (ran, peak);
        }
    }
    panic!("{:?} is too quick to be measured", walden().command);
}

/// The most memory that a process has had resident so far, in bytes; `None` if it has ended.
pub fn peak_of(process: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().unwrap() << 10)
}

/// A walden that has come to its end. Every failed assertion prints all of it.
#[derive(Clone, Debug)]
pub struct Ran {
    pub command: String,
    /// `None` if a signal ended it, as [`DEADLINE`] does.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(command: String, output: &Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { command, code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    #[track_caller]
    pub fn code(self, expected: i32) -> Ran {
        assert_eq!(self.code, Some(expected), "exit code\n{self}");
        self
    }

    #[track_caller]
    pub fn stdout_is(self, expected: &str) -> Ran {
        assert_eq!(self.stdout, expected, "standard output\n{self}");
        self
    }

    #[track_caller]
    pub fn stdout_has(self, part: &str) -> Ran {
        assert!(self.stdout.contains(part), "{part:?} is not in the standard output\n{self}");
        self
    }

    #[track_caller]
    pub fn stderr_is(self, expected: &str) -> Ran {
        assert_eq!(self.stderr, expected, "standard error\n{self}");
        self
    }

    #[track_caller]
    pub fn stderr_has(self, part: &str) -> Ran {
        assert!(self.stderr.contains(part), "{part:?} is not in the standard error\n{self}");
        self
    }

    #[track_caller]
    pub fn stderr_lacks(self, part: &str) -> Ran {
        assert!(!self.stderr.contains(part), "{part:?} is in the standard error\n{self}");
        self
    }

    /// The standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ran { command, code, stdout, stderr } = self;
        writeln!(
            f,
            "--- {command}\n--- exit code {code:?}\n--- standard output\n{stdout}\n--- standard error\n{stderr}"
        )
    }
}
