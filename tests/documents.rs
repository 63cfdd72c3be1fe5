//! What the documents tell people to type can be typed: each command line of Walden in them is understood by the program,
//! each verb, flag and variable that they name exists, and each link leads somewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use walden::cli::arguments::{Parsed, parse};
use walden::config::options::TABLE;
use walden::config::row::VerbName;
use walden::config::sources::Environment;

/// The documents for users, and what the packages install, each with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md"), root.join("packaging/debian/README.Debian")];
    for directory in ["docs", "packaging/systemd"] {
        paths.extend(fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.is_file() && path.extension().is_none_or(|extension| extension != "png"));
    paths.sort();
    let text = |path: PathBuf| (path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    paths.into_iter().map(text).collect()
}

/// The lines in which commands stand: those of fenced blocks, of indented text and of units, with continued lines joined.
fn lines(path: &Path, text: &str) -> Vec<String> {
    let is_prose = path.extension().is_some_and(|extension| extension == "md");
    let mut fenced = !is_prose;
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in text.lines() {
        if is_prose && line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced && line.ends_with('\\') {
            joined.push_str(line.trim_end_matches('\\'));
        } else if fenced {
            lines.push(std::mem::take(&mut joined) + line);
        }
    }
    lines
}

/// What stands between backticks in prose; a span may go on in the next line.
fn spans(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    });
    let paragraphs = prose.collect::<Vec<&str>>().join("\n");
    let spans = paragraphs.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    spans.map(|span| span.split_whitespace().collect::<Vec<&str>>().join(" ")).collect()
}

/// The calls of Walden in a line: each from the program's name to the end of its command, as words.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for (at, name) in line.match_indices("walden") {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let after = after.strip_prefix(')').unwrap_or(after);
        let begins = before.is_empty() || before.ends_with([' ', '/', '\'', '"', '(', '=']);
        if !begins || !after.starts_with(' ') {
            continue;
        }
        // In postgresql.conf the whole command stands in quotes.
        let quoted = before.matches('\'').count() % 2 == 1;
        let end = if quoted { after.find('\'').unwrap_or(after.len()) } else { after.len() };
        let words = words(&after[..end]);
        // A verb, one that is misspelt, or a flag before it; anything else is a sentence about Walden.
        let is_verb = |letter: char| letter.is_ascii_lowercase() || letter == '-';
        let is_call = |word: &String| {
            VerbName::parse(word).is_some() || word.starts_with("--") || word.contains('-') && word.chars().all(is_verb)
        };
        if words.first().is_some_and(is_call) {
            calls.push(words);
        }
    }
    calls
}

/// A command's words as a shell sees them, up to the first operator or comment.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut quote) = (None::<String>, None);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), letter) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | ';' | '&' | '>' | '<' | ')') => {
                // 2> is no word.
                word.take_if(|word| word.chars().all(|letter| letter.is_ascii_digit()));
                break;
            }
            (None, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Has the program understand a command; what is wrong with it otherwise.
fn understood(words: &[String]) -> Result<(), String> {
    // Without a rule of retention, delete policy is refused.
    let set = [("WALDEN_PREFIX", "s3://bucket/main"), ("WALDEN_RETAIN", "7")];
    let environment = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let real = |word: &String| match word.as_str() {
        // What PostgreSQL, or a shell, puts there.
        "%f" | "$name" => "000000010000000000000001".to_owned(),
        "$moment" => "2026-11-20 14:03+01".to_owned(),
        word => word.to_owned(),
    };
    let words = [String::from("walden")].into_iter().chain(words.iter().map(real));
    let mut arguments: Vec<OsString> = words.map(OsString::from).collect();
    loop {
        match parse(arguments, &environment) {
            Ok(Parsed::Enter(envdir)) => arguments = envdir.arguments,
            Ok(_) => return Ok(()),
            Err(error) => return Err(format!("{error:?}")),
        }
    }
}

#[test]
fn every_command_in_the_documents_is_understood_by_the_program() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        let in_prose = spans(&text).into_iter().filter(|span| span.starts_with("walden --envdir"));
        for line in lines(&path, &text).into_iter().chain(in_prose) {
            for call in calls(&line) {
                seen += 1;
                if let Err(error) = understood(&call) {
                    wrong.push(format!("{}: {line}\n  {call:?}: {error}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 80, "only {seen} commands were found");
}

/// Flags of other programs that the documents name.
const FOREIGN: &[&str] = &["--collector", "--enable", "--init", "--locked", "--long", "--path"];

#[test]
fn every_verb_flag_and_variable_that_the_documents_name_exists() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        for span in spans(&text) {
            let words: Vec<&str> = span.split(' ').collect();
            let (verb, words) = match words.as_slice() {
                ["walden", verb, rest @ ..]
                    if !verb.starts_with('-') && verb.chars().all(|letter| !letter.is_uppercase()) =>
                {
                    match VerbName::parse(verb) {
                        Some(name) => (Some(name), rest),
                        None => {
                            wrong.push(format!("{}: `{span}`: there is no verb {verb}", path.display()));
                            continue;
                        }
                    }
                }
                [verb, rest @ ..] if VerbName::parse(verb).is_some() => (VerbName::parse(verb), rest),
                // There the flags are those of scripts/bench.
                [flag, ..] if flag.starts_with("--") && !path.ends_with("benchmarks.md") => (None, words.as_slice()),
                _ => continue,
            };
            for flag in words.iter().filter_map(|word| flag(word)) {
                seen += 1;
                if !FOREIGN.contains(&flag) && !exists(flag, verb) {
                    wrong.push(format!("{}: `{span}`: there is no {flag}", path.display()));
                }
            }
        }
        for variable in variables(&text) {
            seen += 1;
            // What --envdir leaves, and what is for tests.
            let is_internal = variable == "WALDEN_ENVDIR" || variable.starts_with("WALDEN_TEST_");
            if !is_internal && !TABLE.iter().any(|row| row.variable() == variable) {
                wrong.push(format!("{}: there is no {variable}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150, "only {seen} names were found");
}

/// The name of a flag, without a value and what a sentence puts behind it; not the beginning of several.
fn flag(word: &str) -> Option<&str> {
    let end = word.find(['=', ',', '|', ']', ')', '.']).unwrap_or(word.len());
    let flag = &word[..end];
    (flag.len() > 2 && flag.starts_with("--") && !flag.ends_with('…')).then_some(flag)
}

/// Whether the verb, or any, takes the flag: the program itself is asked, for it may know short forms.
fn exists(flag: &str, verb: Option<VerbName>) -> bool {
    let environment = Environment::from_iter([("WALDEN_PREFIX".to_owned(), "s3://bucket/main".to_owned())]);
    VerbName::ALL.into_iter().filter(|name| verb.is_none_or(|verb| verb == *name)).any(|verb| {
        match parse(["walden", verb.as_str(), flag].map(OsString::from), &environment) {
            Ok(_) => true,
            Err(error) => !error.what().contains("unexpected argument"),
        }
    })
}

/// The `WALDEN_…` in a text; not those that are only the beginning of names.
fn variables(text: &str) -> Vec<&str> {
    let from = text.match_indices("WALDEN_").map(|(at, _)| &text[at..]);
    let names = from.map(|rest| {
        let is_name = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        &rest[..rest.find(|letter| !is_name(letter)).unwrap_or(rest.len())]
    });
    names.filter(|name| name.len() > "WALDEN_".len() && !name.ends_with('_')).collect()
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = documents();
    documents.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "md"));
    for entry in fs::read_dir(root.join("docs/decisions")).unwrap() {
        let path = entry.unwrap().path();
        documents.push((path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
    }
    let mut wrong = Vec::new();
    for (path, text) in &documents {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { root.join(path) } else { root.join(path).parent().unwrap().join(file) };
            let leads = match fs::read_to_string(&file) {
                Ok(target) => anchor.is_empty() || target.lines().any(|line| heading(line).as_deref() == Some(anchor)),
                Err(_) => anchor.is_empty() && file.exists(),
            };
            if !leads {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The anchor of a heading, as GitHub and its kin make it.
fn heading(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let letters = title.to_lowercase().replace(' ', "-");
    Some(letters.chars().filter(|letter| letter.is_alphanumeric() || ['-', '_'].contains(letter)).collect())
}
