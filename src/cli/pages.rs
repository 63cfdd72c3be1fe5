//! Completions for shells, and man pages: from the same command line that the parser has, so that they cannot drift from
//! it. Returns texts; writes nothing.

use std::io::Write;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::arguments::command;
use super::help;
use crate::config::options::TABLE;
use crate::config::row::VerbName;
use crate::error::{Error, Kind, Result};

/// The shells that completions are made for.
pub(super) const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

/// Reads a shell's name.
///
/// # Errors
/// [`Kind::Usage`] for another one.
pub(super) fn shell(name: &str) -> Result<Shell> {
    SHELLS.iter().find(|(known, _)| *known == name).map(|(_, shell)| *shell).ok_or_else(|| {
        Error::new(Kind::Usage, format!("\"{name}\" is no shell that completions are made for"))
            .hint("Write walden completions bash, zsh or fish.")
    })
}

/// The script that such a shell reads.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    let verbs = VerbName::ALL.map(VerbName::as_str);
    let command = verbs.iter().fold(command(), |command, verb| command.mut_subcommand(verb, hinted));
    clap_complete::generate(shell, &mut hinted(command), "walden", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// With the values that can be listed, and where files and directories are meant.
fn hinted(command: Command) -> Command {
    command.mut_args(|arg| {
        let name = arg.get_id().as_str().to_owned();
        match (name.as_str(), TABLE.iter().find(|row| row.name == name)) {
            (help::SHELL, _) => listed(arg, SHELLS.map(|(name, _)| name).to_vec()),
            (help::BACKUP, _) => listed(arg, vec!["LATEST"]),
            (help::PGDATA | help::DIR, _) => arg.value_hint(ValueHint::DirPath),
            (help::PATH, _) => arg.value_hint(ValueHint::FilePath),
            (_, Some(row)) if row.value.is_none() => arg,
            (_, Some(row)) if !row.words().is_empty() => listed(arg, row.words()),
            (_, Some(row)) => arg.value_hint(match row.value {
                Some("DIR") => ValueHint::DirPath,
                Some("FILE") => ValueHint::FilePath,
                _ => ValueHint::Other,
            }),
            _ => arg,
        }
    })
}

fn listed(arg: Arg, words: Vec<&'static str>) -> Arg {
    arg.value_parser(PossibleValuesParser::new(words))
}

/// All man pages with the names of their files: `walden.1`, and one for each verb.
///
/// # Errors
/// None that writing into memory does not have.
pub(super) fn manual() -> Result<Vec<(String, String)>> {
    let mut whole = command();
    whole.build();
    let verbs =
        VerbName::ALL.into_iter().filter_map(|verb| Some((verb, whole.find_subcommand(verb.as_str())?.clone())));
    let mut pages = Vec::new();
    for (verb, command) in verbs {
        pages.push((format!("walden-{verb}.1"), page(command, "EXAMPLES", help::examples(verb), &verb_usage(verb))?));
    }
    pages.insert(0, (String::from("walden.1"), page(whole, "SETTINGS AND EXIT STATUS", &help::epilogue(), "VERB")?));
    Ok(pages)
}

/// The operands, as the synopsis shows them.
fn verb_usage(verb: VerbName) -> String {
    let operand = |operand: &help::Positional| match operand.required {
        true => operand.name.to_owned(),
        false => format!("[{}]", operand.name),
    };
    help::positionals(verb).iter().map(operand).collect::<Vec<String>>().join(" ")
}

/// One page. `rest` is printed as it is, under a heading of its own.
fn page(command: Command, heading: &str, rest: &str, operands: &str) -> Result<String> {
    let failed = |error: std::io::Error| Error::io("could not write a man page", &error);
    let name = command.get_display_name().unwrap_or("walden").to_owned();
    let (spoken, subcommands) = (name.replacen("walden-", "walden ", 1), command.has_subcommands());
    // With all options it would be longer than the page.
    let man = Man::new(command.disable_help_subcommand(true).disable_version_flag(true))
        .title(name.to_uppercase())
        .manual("Walden")
        .source(concat!("walden ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text).map_err(failed)?;
    man.render_name_section(&mut text).map_err(failed)?;
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    synopsis.text([bold(spoken), roman(format!(" [OPTIONS] {operands}"))]);
    synopsis.to_writer(&mut text).map_err(failed)?;
    man.render_options_section(&mut text).map_err(failed)?;
    if subcommands {
        man.render_subcommands_section(&mut text).map_err(failed)?;
    }
    as_it_is(heading, rest, &mut text).map_err(failed)?;
    let mut also = Roff::new();
    also.control("SH", ["SEE ALSO"]);
    also.text([roman(match subcommands {
        true => "walden-config(1), walden-doctor(1), walden-wal-push(1)",
        false => "walden(1), walden-config(1), walden-doctor(1)",
    })]);
    also.to_writer(&mut text).map_err(failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Lines that must not be filled: commands, and columns.
fn as_it_is(heading: &str, lines: &str, text: &mut impl Write) -> std::io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        // An empty line of the source is one of the page, between nf and fi.
        roff.text([roman(if line.is_empty() { " " } else { line })]);
    }
    roff.control("fi", []);
    roff.to_writer(text)
}
