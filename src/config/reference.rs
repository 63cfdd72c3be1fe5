//! docs/configuration.md, written from the table, so that it cannot drift from what the program does.

use crate::config::options::TABLE;
use crate::config::row::{Role, Row};

/// The whole page, in Markdown.
pub fn markdown() -> String {
    let global = rows(|row| row.role == Role::Setting && row.is_global());
    let others = rows(|row| row.role == Role::Setting && !row.is_global());
    let sections = [
        String::from(INTRODUCTION),
        String::from("## Settings of every verb"),
        settings(&global),
        String::from("## Settings of some verbs"),
        settings(&others),
        String::from("## Other tools' names"),
        aliases(),
        String::from("## Where settings are read from"),
        sources(),
        String::from("## Arguments of verbs"),
        String::from("On the command line only: they belong to one invocation."),
        arguments(),
        String::from("## A configuration file"),
        format!("`walden config --example` prints it:\n\n```toml\n{}```", example()),
        String::from(FOREIGN),
    ];
    format!("{}\n", sections.join("\n\n"))
}

/// A configuration file with every setting, all but the first commented out. Each is there with its default, or where it
/// has none with an example.
pub fn example() -> String {
    let settings = rows(|row| row.role == Role::Setting);
    let lines = settings.iter().enumerate().map(|(index, row)| {
        let text = row.default.or(row.example).unwrap_or_default();
        let value = if text.bytes().all(|b| b.is_ascii_digit()) { text.to_owned() } else { format!("\"{text}\"") };
        let mark = if index == 0 { "" } else { "#" };
        let range = row.range().map_or(String::new(), |range| format!(": {range}"));
        let kind = if row.default.is_some() { "Default" } else { "An example" };
        let comment = format!("{}{range}. {kind}:", row.doc);
        format!("{}{mark}{} = {value}\n", commented(&comment), row.name)
    });
    let head = commented(
        "A configuration file for Walden: name it with --config or WALDEN_CONFIG. A flag, and the \
                          variable that bears a setting's name, win over it. Secrets do not belong here.",
    );
    format!("{head}\n{}", lines.collect::<Vec<String>>().join("\n"))
}

/// The width of the example's comments in columns.
const COMMENT: usize = 100;

/// As lines of a comment.
fn commented(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COMMENT {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    format!("{lines}{line}\n")
}

const INTRODUCTION: &str = "\
<!-- Generated from src/config/options.rs: change it there, then run BLESS=1 cargo test --test config. -->

# Configuration

A setting has one name everywhere: `part-size` is the flag `--part-size`, the variable `WALDEN_PART_SIZE` and the key
`part-size` of the configuration file. The first of these that gives a value decides:

1. the flag;
2. the variable `WALDEN_...`;
3. the variable in which WAL-G, WAL-E or another tool keeps the same thing; if two of those are set and do not mean the
   same, that is an error;
4. the configuration file;
5. the default.

An empty variable counts as unset. Values are checked before any work begins. An unknown variable `WALDEN_...` and an
unknown key in the file are errors, so that a slip of the pen cannot go unnoticed. A variable or a key that the verb at
hand has no use for is fine: one environment serves all verbs.

`walden config` prints every setting, its value, and where that comes from; `walden config --example` prints a file to
begin with.

A size is a whole number with `KiB`, `MiB` or `GiB`, or of bytes; a duration is a number with `ms`, `s`, `m`, `h` or `d`,
or several of them (`1h30m`). A setting that can be given several times is a flag for each value, several values with
blanks between them in the variable, and an array of strings in the file.";

const FOREIGN: &str = "\
## What belongs to the AWS SDK and to libpq

Walden has no settings of its own for credentials and connections. `AWS_*` variables, `~/.aws/config` and
`~/.aws/credentials` mean what they mean to every AWS SDK, `PG*` variables what they mean to libpq. The ones that matter
most:

| Variable | Meaning |
|---|---|
| `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` | The address of a store that is not Amazon's |
| `AWS_REGION` | The region of the bucket |
| `AWS_PROFILE` | The profile of `~/.aws/config`: source of credentials, role to assume |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | Credentials |
| `AWS_USE_DUALSTACK_ENDPOINT`, `AWS_USE_FIPS_ENDPOINT` | Amazon's endpoints with IPv6, or with FIPS 140 |
| `AWS_CA_BUNDLE` | A PEM file with the authorities to trust |
| `PGHOST`, `PGPORT` | Where the server is: a host or the directory of its socket, and the port |
| `PGUSER`, `PGDATABASE` | As whom to connect, and to which database |
| `PGPASSWORD`, `PGPASSFILE` | The password, or the file that has it |
| `PGSERVICE`, `PGSERVICEFILE` | The service that says all this, and the file that has it |
| `PGSSLMODE`, `PGSSLROOTCERT` | Whether to use TLS, and which authorities to trust |";

fn rows(wanted: impl Fn(&Row) -> bool) -> Vec<&'static Row> {
    TABLE.iter().copied().filter(|row| wanted(row)).collect()
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|{}", "---|".repeat(head.len()));
    let rows = rows.into_iter().map(|cells| line(&cells));
    [line(&head), rule].into_iter().chain(rows).collect::<Vec<String>>().join("\n")
}

fn settings(rows: &[&Row]) -> String {
    let head = ["Setting", "Value", "Default", "Verbs", "Meaning"];
    table(&head, rows.iter().map(|row| vec![code(row.name), value(row), default(row), verbs(row), row.doc.to_owned()]))
}

fn aliases() -> String {
    let pairs = rows(|_| true).into_iter().flat_map(|row| row.aliases.iter().map(move |alias| (row, alias)));
    table(
        &["Variable", "Setting", "Written as"],
        pairs.map(|(row, alias)| {
            vec![code(alias.name), code(row.name), alias.syntax.unwrap_or("in the setting itself").to_owned()]
        }),
    )
}

fn sources() -> String {
    let sources = rows(|row| row.role == Role::Source);
    let table = table(
        &["Flag", "Variable", "Meaning"],
        sources.iter().map(|row| vec![flag(row), code(&row.variable()), row.doc.to_owned()]),
    );
    format!("{table}\n\n{ENVDIR}")
}

const ENVDIR: &str = "\
`--envdir DIR` is for `archive_command` and cron, which have next to no environment of their own, and for secrets, which
do not belong into a command line. Each file of the directory is a variable: its name is the file's, its value the
file's first line without blanks at the end; an empty file unsets the variable; files whose names begin with a dot are
passed over. The variables replace those of the same name in the environment, and can be any: `AWS_*` and `PG*` too.
Walden starts itself anew with them, and sets `WALDEN_ENVDIR` to remember the directory's name; setting that variable by
hand reads nothing.";

fn arguments() -> String {
    let arguments = rows(|row| row.role == Role::Argument);
    let head = ["Argument", "Value", "Default", "Verbs", "Meaning"];
    let range = |row: &Row| row.range().unwrap_or_default();
    table(&head, arguments.iter().map(|row| vec![flag(row), range(row), default(row), verbs(row), row.doc.to_owned()]))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn flag(row: &Row) -> String {
    code(&match row.value {
        Some(value) => format!("--{} {value}", row.name),
        None => format!("--{}", row.name),
    })
}

fn value(row: &Row) -> String {
    row.range().or(row.value.map(code)).unwrap_or_default()
}

fn default(row: &Row) -> String {
    row.default.filter(|_| row.value.is_some()).map(code).unwrap_or_default()
}

fn verbs(row: &Row) -> String {
    let names: Vec<String> = row.verbs.iter().map(|verb| code(verb.as_str())).collect();
    if row.is_global() { String::from("all") } else { names.join(", ") }
}
