//! What is made from the table for shells, for man, and for those who begin: that it is accepted where it belongs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::walden::{Ran, Walden};
use walden::config::options::TABLE;
use walden::config::row::{Role, VerbName};

fn run(directory: &Path, words: &[&str]) -> Ran {
    Walden::new(directory).args(words).run()
}

fn tool(name: &str, args: &[&str], directory: &Path) -> Ran {
    let mut command = Command::new(name);
    command.args(args).current_dir(directory).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100");
    let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}; scripts/need man groff"));
    Ran::of(format!("{command:?}"), &output)
}

#[test]
fn the_example_that_config_prints_is_accepted_as_it_is_and_with_every_line_uncommented() {
    let directory = tempfile::tempdir().unwrap();
    let printed = run(directory.path(), &["config", "--example"]).code(0).stderr_is("").stdout;
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    for text in [printed.clone(), printed.lines().map(uncommented).collect()] {
        fs::write(directory.path().join("walden.toml"), &text).unwrap();
        let shown = run(directory.path(), &["--config", "walden.toml", "config"]).code(0);
        shown.stdout_has("s3://bucket/path").stdout_has("key prefix of walden.toml");
    }
    assert!(printed.lines().all(|line| line.len() <= 120), "{printed}");
    for row in TABLE.iter().filter(|row| row.role == Role::Setting) {
        assert!(printed.contains(&format!("{} = ", row.name)), "{}", row.name);
    }
}

#[test]
fn every_verb_and_setting_has_its_place_in_man_pages_that_are_rendered_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), &["man", "."]).code(0).stdout_is("").stderr_is("");
    let mut pages: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.retain(|name| name.ends_with(".1"));
    assert_eq!(pages.len(), 1 + VerbName::ALL.len(), "{pages:?}");
    for page in &pages {
        let groff = ["-man", "-Tutf8", "-ww", "-rLL=100n", "-K", "utf8", page];
        tool("groff", &groff, directory.path()).code(0).stderr_is("");
    }
    for verb in VerbName::ALL {
        let page = format!("./walden-{verb}.1");
        let shown = tool("man", &["--warnings", "-l", &page], directory.path()).code(0).stderr_is("");
        let shown = shown.stdout_has(&format!("walden {verb}")).stdout_has("EXAMPLES").stdout_has("SEE ALSO");
        for row in TABLE.iter().filter(|row| row.verbs.contains(&verb)) {
            assert!(shown.stdout.contains(&format!("--{}", row.name)), "{verb} {}\n{shown}", row.name);
        }
    }
    // Commands can be copied: their lines are not filled.
    let shown = tool("man", &["-l", "./walden-backup-push.1"], directory.path()).code(0);
    shown.stdout_has("  30 1 * * *  postgres  walden --envdir /etc/walden.d backup-push\n");
    let whole = tool("man", &["-l", "./walden.1"], directory.path()).code(0);
    whole.stdout_has("walden-wal-push(1)").stdout_has("certainly not in the archive").stdout_has("Exit status:");
}

#[test]
fn where_man_pages_cannot_be_written_that_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), &["man", "nowhere"]).code(10).stderr_has("could not write \"nowhere/walden.1\"");
}

#[test]
fn bash_completes_verbs_flags_and_the_values_that_can_be_listed() {
    let directory = tempfile::tempdir().unwrap();
    let script = run(directory.path(), &["completions", "bash"]).code(0).stderr_is("").stdout;
    fs::write(directory.path().join("walden.bash"), script).unwrap();
    let completed = |line: &str| {
        let ask = "source ./walden.bash; COMP_WORDS=($0); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                   [[ $0 == *' ' ]] && COMP_WORDS+=('') && COMP_CWORD=$((COMP_CWORD + 1)); \
                   _walden walden \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                   printf '%s\\n' \"${COMPREPLY[@]}\"";
        let ran = tool("bash", &["-c", ask, line], directory.path()).code(0);
        ran.stdout.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(completed("walden backup-c"), ["backup-cat"]);
    assert_eq!(completed("walden backup-fetch --target-x"), ["--target-xid"]);
    assert_eq!(completed("walden config --log-format "), ["text", "json"]);
    assert!(completed("walden completions ").ends_with(&["bash", "zsh", "fish"].map(str::to_owned)));
    for verb in VerbName::ALL {
        assert!(completed("walden ").contains(&verb.as_str().to_owned()), "{verb}");
    }
}

#[test]
fn zsh_and_fish_get_scripts_with_every_verb_and_other_shells_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["zsh", "fish"] {
        let script = run(directory.path(), &["completions", shell]).code(0).stdout;
        for verb in VerbName::ALL {
            assert!(script.contains(verb.as_str()), "{shell} {verb}");
        }
        fs::write(directory.path().join(shell), script).unwrap();
        // Where the shell is there, it reads its script.
        if Command::new(shell).arg("-c").arg(":").status().is_ok() {
            tool(shell, &["-n", shell], directory.path()).code(0).stderr_is("");
        }
    }
    run(directory.path(), &["completions", "tcsh"]).code(2).stderr_has("Write walden completions bash, zsh or fish.");
}
