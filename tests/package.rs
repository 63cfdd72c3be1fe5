//! What `scripts/package` makes, of the program that is built already: a Debian package that dpkg installs into a root of
//! its own and removes again, with units that systemd understands, and a tarball that needs the C library alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use walden::config::row::VerbName;

use support::walden::program;

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> String {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: scripts/need has its name"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Has the script make one kind of package; its path.
fn package(kind: &str, output: &Path) -> PathBuf {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package"));
    script.arg("--binary").arg(program()).arg("--output").arg(output).arg(kind);
    PathBuf::from(run(&mut script).trim_end())
}

/// All files and links below a directory, relative to it.
fn files(directory: &Path) -> BTreeSet<String> {
    let listed = run(Command::new("find").arg(directory).args(["-not", "-type", "d", "-printf", "%P\n"]));
    listed.lines().map(str::to_owned).collect()
}

/// A root in which dpkg knows of the C library, and of nothing else: all that the package may depend on.
fn empty_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.path().join("var/lib/dpkg").join(directory)).unwrap();
    }
    let known = run(Command::new("dpkg-query").args(["-s", "libc6", "libgcc-s1"]));
    fs::write(root.path().join("var/lib/dpkg/status"), known + "\n").unwrap();
    root
}

/// dpkg in that root; fakeroot spares it the right to give files to root.
fn dpkg(root: &Path, action: &str, object: &Path) {
    let mut dpkg = Command::new("fakeroot");
    dpkg.args(["dpkg", "--force-script-chrootless", "--log=/dev/null"]).arg(format!("--root={}", root.display()));
    run(dpkg.arg(action).arg(object));
}

/// What is there but for dpkg's own notes.
fn installed(root: &Path) -> BTreeSet<String> {
    files(root).into_iter().filter(|file| !file.starts_with("var/lib/dpkg/")).collect()
}

#[test]
fn the_debian_package_is_installed_without_root_and_a_purge_leaves_what_administrators_wrote_and_nothing_else() {
    let (output, root) = (tempfile::tempdir().unwrap(), empty_root());
    let deb = package("deb", output.path());
    dpkg(root.path(), "--install", &deb);
    let there = installed(root.path());
    has_manual_and_completions(&there, "usr/");
    for unit in ["backup", "verify", "delete"] {
        assert!(there.contains(&format!("usr/lib/systemd/system/walden-{unit}@.timer")), "{there:#?}");
    }
    let version = run(Command::new(root.path().join("usr/bin/walden")).arg("--version"));
    assert_eq!(version, format!("walden {}\n", env!("CARGO_PKG_VERSION")));
    let example = root.path().join("etc/walden/walden.toml");
    let lines = fs::read_to_string(&example).unwrap();
    assert!(lines.lines().all(|line| line.is_empty() || line.starts_with('#')), "{lines}");
    run(Command::new(root.path().join("usr/bin/walden")).arg("config").arg("--config").arg(example));

    let written = |path: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    fs::write(written("etc/walden/15-main/WALDEN_PREFIX"), "s3://bucket/main\n").unwrap();
    fs::write(written("var/cache/walden/stores"), "").unwrap();
    let enabled = written("etc/systemd/system/timers.target.wants/walden-backup@15-main.timer");
    symlink("/usr/lib/systemd/system/walden-backup@.timer", enabled).unwrap();

    dpkg(root.path(), "--remove", Path::new("walden"));
    let left = installed(root.path());
    assert!(left.contains("etc/walden/walden.toml"), "{left:?}");
    assert!(left.iter().all(|file| file.starts_with("etc/") || file.starts_with("var/cache/")), "{left:?}");
    dpkg(root.path(), "--purge", Path::new("walden"));
    assert_eq!(installed(root.path()), BTreeSet::from([String::from("etc/walden/15-main/WALDEN_PREFIX")]));
}

fn has_manual_and_completions(there: &BTreeSet<String>, prefix: &str) {
    let pages = VerbName::ALL.map(|verb| format!("share/man/man1/walden-{verb}.1.gz"));
    let completions =
        ["bash-completion/completions/walden", "zsh/vendor-completions/_walden"].map(|file| format!("share/{file}"));
    let others = ["share/man/man1/walden.1.gz", "share/fish/vendor_completions.d/walden.fish", "bin/walden"];
    for file in pages.into_iter().chain(completions).chain(others.map(String::from)) {
        assert!(there.contains(&format!("{prefix}{file}")), "{file} is not in {there:#?}");
    }
}

#[test]
fn lintian_finds_nothing_in_the_package() {
    let output = tempfile::tempdir().unwrap();
    let deb = package("deb", output.path());
    // Who makes a package says who it is; a test has no name.
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    lintian.args(["--suppress-tags", "bogus-mail-host,bogus-mail-host-in-debian-changelog"]);
    run(lintian.arg(deb));
}

#[test]
fn systemd_understands_the_units_and_counts_them_as_confined() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let root = tempfile::tempdir().unwrap();
    let system = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).unwrap();
    // What units of every system refer to.
    run(Command::new("cp").args(["-a", "/lib/systemd/system/."]).arg(&system));
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    fs::copy(program(), root.path().join("usr/bin/walden")).unwrap();
    for unit in fs::read_dir(&units).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(unit.path(), system.join(unit.file_name())).unwrap();
        let name = unit.file_name().to_str().unwrap().replace('@', "@15-main");
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no", "--recursive-errors=no"]);
        run(analyze.arg(format!("--root={}", root.path().display())).arg(&name));
    }
    for service in ["backup", "verify", "delete"] {
        let mut analyze = Command::new("systemd-analyze");
        // Of ten, where a service without any confinement has 9.6.
        analyze.args(["security", "--offline=yes", "--threshold=30"]);
        run(analyze.arg(units.join(format!("walden-{service}@.service"))));
    }
}

#[test]
fn the_tarball_has_everything_and_its_program_needs_the_c_library_alone() {
    let (output, unpacked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tarball = package("tarball", output.path());
    run(Command::new("tar").arg("-xzf").arg(&tarball).arg("-C").arg(unpacked.path()).arg("--strip-components=1"));
    let there = files(unpacked.path());
    has_manual_and_completions(&there, "");
    for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "docs/operations.md", "walden.toml"] {
        assert!(there.contains(file), "{file} is not in {there:#?}");
    }
    let program = unpacked.path().join("bin/walden");
    run(Command::new(&program).arg("--version"));
    let allowed = ["linux-vdso", "libc", "libm", "libgcc_s", "ld-linux-x86-64", "ld-linux-aarch64"];
    for line in run(Command::new("ldd").arg(&program)).lines() {
        let library = line.trim().rsplit_once("/lib").map_or(line.trim(), |(before, _)| before).trim();
        let library = library.split(['.', ' ']).next().unwrap();
        assert!(allowed.contains(&library) || line.contains("ld-linux"), "{line}");
    }
    let unit = fs::read_to_string(unpacked.path().join("lib/systemd/system/walden-backup@.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/walden "), "{unit}");
}
