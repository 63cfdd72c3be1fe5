//! The house keeps its shape: arrows between modules point down, and each effect has one owner.
//!
//! `docs/architecture.md` says why. A new module is entered in [`UNITS`], a new effect in [`OWNERS`].

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Vocabulary,
    Machines,
    Joiners,
    Stories,
    Words,
    Main,
}
use Layer::{Joiners, Machines, Main, Stories, Vocabulary, Words};

/// Every module belongs to the unit with the longest name that it begins with; a unit's modules may use each other.
const UNITS: &[(&str, Layer)] = &[
    ("main", Main),
    ("cli", Words),
    ("wal::push", Stories),
    ("wal::fetch", Stories),
    ("wal::prefetch", Stories),
    ("wal::spool", Stories),
    ("wal::backfill", Stories),
    ("wal::verify", Stories),
    ("wal::show", Stories),
    ("backup::cat", Stories),
    ("backup::push", Stories),
    ("backup::delete", Stories),
    ("backup::mark", Stories),
    ("restore", Stories),
    ("daemon", Stories),
    ("doctor", Stories),
    ("exporter", Stories),
    ("status", Stories),
    ("report", Stories),
    ("keys", Stories),
    ("archive", Joiners),
    ("legacy", Joiners),
    ("wal::receive", Joiners),
    ("backup::catalogue", Joiners),
    ("backup::obstacles", Joiners),
    ("wal::survey", Joiners),
    ("storage", Machines),
    ("codec", Machines),
    ("crypt", Machines),
    ("legacy::codec", Machines),
    ("legacy::cipher", Machines),
    ("durable", Machines),
    ("pipeline", Machines),
    ("observe", Machines),
    ("metrics", Machines),
    ("postgres::client", Machines),
    ("postgres::datadir", Machines),
    ("postgres::installed", Machines),
    ("error", Vocabulary),
    ("config", Vocabulary),
    ("layout", Vocabulary),
    ("crypt::size", Vocabulary),
    ("observe::repeats", Vocabulary),
    ("observe::words", Vocabulary),
    ("postgres::bytes", Vocabulary),
    ("postgres::lsn", Vocabulary),
    ("postgres::control", Vocabulary),
    ("postgres::entry", Vocabulary),
    ("postgres::label", Vocabulary),
    ("postgres::page", Vocabulary),
    ("postgres::ready", Vocabulary),
    ("postgres::relation", Vocabulary),
    ("wal::segment", Vocabulary),
    ("wal::timeline", Vocabulary),
    ("wal::header", Vocabulary),
    ("wal::chain", Vocabulary),
    ("wal::commits", Vocabulary),
    ("wal::runs", Vocabulary),
    ("wal::split", Vocabulary),
    ("wal::tree", Vocabulary),
    ("wal::pages", Vocabulary),
    ("backup::manifest", Vocabulary),
    ("backup::damage", Vocabulary),
    ("backup::plan", Vocabulary),
    ("backup::garbage", Vocabulary),
    ("backup::retention", Vocabulary),
    ("restore::base", Vocabulary),
    ("restore::plan", Vocabulary),
    ("restore::destination", Vocabulary),
    ("restore::reach", Vocabulary),
    ("restore::forecast", Vocabulary),
];

/// Modules with a name of their own that are parts of a unit.
const PARTS: &[(&str, &str)] = &[
    ("backup::copy", "backup::push"),
    ("backup::journal", "backup::push"),
    ("backup::listing", "backup::push"),
    ("backup::pack", "backup::push"),
    ("backup::pages", "backup::push"),
    ("backup::preflight", "backup::push"),
    ("backup::read", "backup::push"),
    ("backup::resume", "backup::push"),
    ("backup::remote", "backup::push"),
    ("backup::session", "backup::push"),
    ("backup::volume", "backup::push"),
    ("backup::wait", "backup::push"),
];

/// The arrows that do not point down, each with its reason. Vocabulary may use vocabulary.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    ("backup::push", "wal::verify", "a backup is complete when its WAL is in the archive"),
    ("restore", "wal::verify", "nothing is touched before the needed WAL is known to be there"),
    ("report", "status", "a page shows what a look finds"),
    ("report", "wal::verify", "windows and gaps are drawn"),
    ("status", "wal::verify", "a window is what a verification finds"),
    ("status", "wal::spool", "a push that failed has left there why"),
    ("wal::fetch", "wal::prefetch", "what was fetched ahead is taken first"),
    ("wal::fetch", "wal::spool", "a request names the spool"),
    ("daemon", "wal::push", "it pushes for others"),
    ("doctor", "wal::spool", "it looks at where the spool lies"),
    ("daemon", "wal::spool", "its socket lies there"),
    ("wal::backfill", "wal::push", "a backfill is many pushes"),
    ("wal::receive", "legacy", "what is not in our archive may be in the one before it"),
    ("wal::receive", "archive", "a WAL file comes through the archive's door"),
    ("wal::push", "wal::spool", "what was pushed ahead is noted there"),
    ("wal::prefetch", "wal::spool", "what was fetched ahead lies there"),
    ("backup::catalogue", "archive", "backups are found through the archive's door"),
    ("wal::survey", "archive", "listings and history files come through the archive's door"),
    ("storage", "durable", "a directory's objects are files that must survive"),
    ("metrics", "durable", "the file of the metrics is put in its place in one step"),
    ("codec", "crypt", "payloads are encrypted on their way"),
    ("storage", "crypt", "a key of one's own lies in a file with rights; what KMS gives out is a secret"),
    ("legacy::cipher", "crypt", "a key of theirs is wiped as ours are"),
    ("legacy::cipher", "legacy::codec", "errors of ours travel through both in the same way"),
    ("codec", "storage", "what was encoded is handed on as the body of an object"),
];

/// Who may write what, as the beginnings of paths below src.
const OWNERS: &[(&str, &[&str])] = &[
    ("process::exit", &["main.rs"]),
    ("println!", &["main.rs", "cli"]),
    ("print!", &["main.rs", "cli"]),
    ("aws_sdk_s3", &["storage/s3"]),
    ("aws_sdk_sts", &["storage/s3/identity"]),
    ("aws_sdk_kms", &["storage/s3/kms"]),
    ("age::", &["crypt", "config/encryption"]),
    ("aws_config", &["storage/s3", "storage/credentials"]),
    ("aws_smithy", &["storage/s3", "storage/credentials"]),
    ("tokio_postgres", &["postgres/client"]),
    ("postgres_protocol", &["postgres/client"]),
    ("fs::rename", &["durable"]),
    ("hard_link", &["durable"]),
    (".sync_all(", &["durable"]),
    (".sync_data(", &["durable"]),
    ("syncfs", &["durable"]),
];

const LONGEST_FILE: usize = 600;

/// A source file without its comments and its tests.
struct Source {
    path: PathBuf,
    /// `wal::push` for `wal/push.rs`
    module: Vec<String>,
    code: String,
}

#[test]
fn arrows_between_modules_point_down() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        for path in paths(&source) {
            match (unit_of(&source.module), unit_of(&path)) {
                (Some(from), Some(to)) if allowed(from, to) => continue,
                (Some(from), Some(to)) => wrong.insert(format!("{} ({:?}) uses {} ({:?})", from.0, from.1, to.0, to.1)),
                (None, _) => wrong.insert(format!("{} is in no unit", source.module.join("::"))),
                (_, None) => wrong.insert(format!("{} is in no unit", path.join("::"))),
            };
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_effect_has_one_owner() {
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.to_str().unwrap();
        for (word, owners) in OWNERS {
            let stray = contains_word(&source.code, word) && !owners.iter().any(|owner| path.starts_with(owner));
            if stray {
                wrong.push(format!("src/{path} has {word}, which is for {owners:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_and_their_names_say_what_is_inside() {
    let vague = ["mod", "utils", "util", "common", "types", "helpers", "manager", "handler"];
    for source in sources() {
        let name = source.path.file_stem().unwrap().to_str().unwrap();
        assert!(!vague.contains(&name), "src/{}", source.path.display());
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LONGEST_FILE, "src/{} has {lines} lines: what is the second thing?", source.path.display());
    }
}

#[test]
fn every_exception_is_still_needed() {
    let used: BTreeSet<(&str, &str)> = sources()
        .iter()
        .flat_map(|source| paths(source).into_iter().map(|path| (unit_of(&source.module), unit_of(&path))))
        .filter_map(|(from, to)| Some((from?.0, to?.0)))
        .collect();
    let exists = |unit: &&str| sources().iter().any(|source| unit_of(&source.module).is_some_and(|own| own.0 == *unit));
    for (from, to, _) in SIDEWAYS.iter().filter(|(from, to, _)| exists(from) && exists(to)) {
        assert!(used.contains(&(*from, *to)), "{from} does not use {to}: take the line out");
    }
}

fn allowed(from: (&str, Layer), to: (&str, Layer)) -> bool {
    from.0 == to.0
        || from.1 > to.1
        || (from.1 == Vocabulary && to.1 == Vocabulary)
        || SIDEWAYS.iter().any(|(one, other, _)| (*one, *other) == (from.0, to.0))
}

fn unit_of(module: &[String]) -> Option<(&'static str, Layer)> {
    (1..=module.len()).rev().find_map(|length| {
        let name = module[..length].join("::");
        let unit = PARTS.iter().find(|(part, _)| *part == name).map_or(name.as_str(), |(_, unit)| unit);
        UNITS.iter().find(|(known, _)| *known == unit).copied()
    })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut sources) = (vec![root.clone()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let path = entry.strip_prefix(&root).unwrap().to_path_buf();
                let module = path.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                sources.push(Source { path, module, code: code(&fs::read_to_string(entry).unwrap()) });
            }
        }
    }
    assert!(sources.len() > 5);
    sources
}

/// Without comments and without the tests, which stand at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\n").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// `word` where it is not the end of a longer one; `eprint!` counts as `print!`.
fn contains_word(code: &str, word: &str) -> bool {
    let code = code.replace("eprint", "print");
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !word.starts_with(|first: char| first.is_alphanumeric())
            || !before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    })
}

/// All modules and items of this crate that the source names by a path, as absolute paths.
fn paths(source: &Source) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let own = &source.module;
    for (root, base) in [("crate::", vec![]), ("walden::", vec![]), ("super::", own[..own.len() - 1].to_vec())] {
        for (at, _) in source.code.match_indices(root) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
                continue;
            }
            let (mut base, mut rest) = (base.clone(), &source.code[at + root.len()..]);
            while let Some(further) = rest.strip_prefix("super::") {
                base.pop();
                rest = further;
            }
            tree(rest, &base, &mut found);
        }
    }
    found
}

/// Reads what follows `use crate::`, a tree in braces included; returns what comes after it.
fn tree<'a>(text: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let Some(mut rest) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let path: Vec<String> = base.iter().cloned().chain([name.to_owned()]).collect();
        return match rest.strip_prefix("::") {
            Some(rest) if !rest.starts_with(['<', '*']) => tree(rest, &path, found),
            _ => {
                found.push(path);
                rest
            }
        };
    };
    loop {
        rest = tree(rest.trim_start(), base, found);
        // A name in a tree may be followed by "as other".
        let next = rest.find([',', '}']).unwrap();
        let last = rest.as_bytes()[next] == b'}';
        rest = rest[next + 1..].trim_start();
        if last {
            return rest;
        }
        if let Some(after) = rest.strip_prefix('}') {
            return after;
        }
    }
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = "use crate::{error::{Kind, Result as R}, wal::segment};\nuse super::lsn::Lsn;\n\
                fn f() -> crate::layout::Key { pub(crate) super::super::codec::x() }\n// use crate::cli;\n\
                use mycrate::no;\n#[cfg(test)]\nmod tests { use crate::doctor; }\n";
    let source = Source {
        path: PathBuf::from("postgres/control.rs"),
        module: vec!["postgres".into(), "control".into()],
        code: code(text),
    };
    let found: Vec<String> = paths(&source).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        ["error::Kind", "error::Result", "wal::segment", "layout::Key", "postgres::lsn::Lsn", "codec::x"]
    );
    let unit = |name: &str| unit_of(&name.split("::").map(str::to_owned).collect::<Vec<_>>()).unwrap();
    assert_eq!(unit("restore::plan::Plan"), ("restore::plan", Vocabulary));
    assert_eq!(unit("restore::copy"), ("restore", Stories));
    assert_eq!(unit("backup::volume"), ("backup::push", Stories));
    assert!(allowed(unit("cli"), unit("restore")) && !allowed(unit("restore"), unit("cli")));
    assert!(!allowed(unit("wal::push"), unit("wal::fetch")) && allowed(unit("storage::local"), unit("durable")));
    assert!(!allowed(unit("layout"), unit("storage")));
    assert!(contains_word("eprintln!()", "println!") && !contains_word("fprintln!()", "println!"));
}
