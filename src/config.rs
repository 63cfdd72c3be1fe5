//! Settings: what they are, where they come from and what they mean.
//!
//! [`options`] is the table of everything that can be set and [`row`] what a row of it is, [`value`] how each type of
//! value is written, [`role`] a role to assume, [`requests`] what objects in S3 are to be, [`encryption`] for whom they are
//! encrypted, [`target`] the words for what a restore shall reach, [`conninfo`] those for whom a standby streams from;
//! [`sources`] reads flags, variables and the file, [`foreign`] knows the variables of WAL-E and WAL-G that are no settings,
//! [`wal_g`] reads their files, [`migration`] turns both into a file of ours, [`reference`](mod@reference) writes the
//! documentation. Here are the outcome, [`Settings`], and the archive's [`Location`].
//!
//! Never keeps a global: whoever needs a setting is given the settings or the value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::row::{Role, Row, Setting};
use crate::config::value::Value;
use crate::error::{Error, Kind, Result};

pub mod conninfo;
pub mod encryption;
pub mod foreign;
pub mod mark;
pub mod migration;
pub mod options;
pub mod reference;
pub mod requests;
pub mod role;
pub mod row;
pub mod sources;
pub mod target;
pub mod value;
pub mod wal_g;

/// Where a value comes from, as messages and `walden config` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The flag with this name, without its dashes.
    Flag(&'static str),
    /// The environment variable with this name.
    Variable(String),
    /// The file of the directory that `--envdir` names.
    Envdir(PathBuf),
    /// The configuration file, and the key in it.
    File(PathBuf, String),
    /// The table's own value.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "flag --{name}"),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Envdir(path) => write!(f, "variable file {}", path.display()),
            Origin::File(path, key) => write!(f, "key {key} of {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// What was given for one row of the table, already found legal.
#[derive(Clone)]
struct Given {
    /// One text, or several where the row is repeatable; never none.
    texts: Vec<String>,
    origin: Origin,
}

/// All that one invocation was given, read through the typed keys in [`options`].
///
/// Every text in it has been validated by [`sources::load`]. `Settings::default()` has the defaults alone.
#[derive(Clone, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Given>,
}

impl Settings {
    /// The value, or the default.
    ///
    /// # Errors
    /// [`Kind::Config`] if there is neither, with a hint that names every place where it can be set.
    pub fn get<T: Value>(&self, setting: &Setting<T>) -> Result<T> {
        self.find(setting)?.ok_or_else(|| missing(&setting.row))
    }

    /// The value, or the default, or `None` if there is neither.
    ///
    /// # Errors
    /// None that [`sources::load`] would not have reported.
    pub fn find<T: Value>(&self, setting: &Setting<T>) -> Result<Option<T>> {
        self.text(&setting.row).map(T::read).transpose()
    }

    /// Every value of a repeatable row, in the order given.
    ///
    /// # Errors
    /// None that [`sources::load`] would not have reported.
    pub fn all<T: Value>(&self, setting: &Setting<T>) -> Result<Vec<T>> {
        self.texts(&setting.row).map(T::read).collect()
    }

    /// Where the value comes from; `None` if there is none.
    pub fn origin(&self, row: &Row) -> Option<Origin> {
        let default = row.default.map(|_| Origin::Default);
        self.given.get(row.name).map(|given| given.origin.clone()).or(default)
    }

    /// The value as it was written; the first one of a repeatable row.
    pub fn text(&self, row: &Row) -> Option<&str> {
        self.texts(row).next().or(row.default)
    }

    /// What was given for this row, as it was written; nothing if nothing was.
    pub fn texts(&self, row: &Row) -> impl Iterator<Item = &str> {
        self.given.get(row.name).into_iter().flat_map(|given| &given.texts).map(String::as_str)
    }
}

impl fmt::Debug for Settings {
    /// Only where the values come from: some of them are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.given.iter().map(|(name, given)| (name, &given.origin))).finish()
    }
}

fn missing(row: &Row) -> Error {
    let Row { name, .. } = row;
    let example = row.example.or(row.value).unwrap_or_default();
    let flag = format!("Give --{name} {example}");
    Error::new(Kind::Config, format!("{name} is not set")).hint(match row.role {
        Role::Setting => {
            let variable = row.variable();
            format!("{flag}, set {variable}, or write {name} = \"{example}\" into the file that --config names.")
        }
        Role::Source => format!("{flag} or set {}.", row.variable()),
        Role::Argument => format!("{flag}."),
    })
}

/// Where the archive lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A directory of this machine, by its absolute path without a slash at its end: `file:///path`.
    Directory(PathBuf),
    /// A part of a bucket: `s3://name/prefix`.
    Bucket {
        /// The bucket, or the ARN or the alias of an access point to one.
        name: String,
        /// What every key begins with, without a slash at either end; empty for the whole bucket.
        prefix: String,
    },
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Directory(path) => write!(f, "file://{}", path.display()),
            Location::Bucket { name, prefix } if prefix.is_empty() => write!(f, "s3://{name}"),
            Location::Bucket { name, prefix } => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    /// Reads `s3://bucket[/path]`, `s3://ARN-of-an-access-point[/path]` or `file:///absolute/directory`; slashes at the end
    /// are dropped, nothing is decoded.
    fn from_str(text: &str) -> Result<Location> {
        let parsed = match text.split_once("://") {
            Some(("s3", rest)) => parse_bucket(rest),
            // This host may be named (RFC 8089), and is by WAL-E.
            Some(("file", path)) => parse_directory(path.strip_prefix("localhost").unwrap_or(path)),
            _ => None,
        };
        parsed.filter(|_| !text.chars().any(char::is_control)).ok_or_else(|| {
            let error = Error::new(Kind::Usage, format!("\"{}\" is not the address of an archive", text.escape_debug()));
            error.hint(match text.starts_with("s3://arn:") {
                true => {
                    "Write s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/path. A multi-region access point cannot hold an \
                     archive: name one of its buckets."
                }
                false => "Write s3://bucket/path, or file:///path with three slashes and an absolute path.",
            })
        })
    }
}

fn parse_bucket(rest: &str) -> Option<Location> {
    let length = match rest.starts_with("arn:") {
        true => access_point(rest)?,
        false => rest.find('/').unwrap_or(rest.len()),
    };
    let (name, prefix) = rest.split_at(length);
    let prefix = match prefix.strip_prefix('/') {
        Some(prefix) => prefix.trim_end_matches('/'),
        None if prefix.is_empty() => "",
        None => return None,
    };
    let arn = name.starts_with("arn:");
    let legal_name =
        !name.is_empty() && (arn || name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
    // HTTP clients and proxies fold such segments, and then two prefixes would be one.
    let folds = |segment: &str| matches!(segment, "" | "." | "..");
    let legal_prefix = prefix.is_empty() || !prefix.split('/').any(folds);
    (legal_name && legal_prefix).then(|| Location::Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
}

/// The length of the ARN with which the text begins, `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME`, or with a colon
/// before the name (Amazon S3 User Guide, "Referencing access points"). One of several regions has none in its ARN.
fn access_point(text: &str) -> Option<usize> {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let mut fields = text.splitn(6, ':');
    let ["arn", partition, "s3", region, account, resource] =
        std::array::from_fn(|_| fields.next().unwrap_or_default())
    else {
        return None;
    };
    let name = resource.strip_prefix("accesspoint").and_then(|name| name.strip_prefix(['/', ':']))?;
    let name = name.split('/').next().unwrap_or_default();
    let legal = [partition, region, account, name].into_iter().all(word);
    // The start of the resource, its type with one character after it, and the name.
    legal.then(|| text.len() - resource.len() + "accesspoint/".len() + name.len())
}

/// The region in the ARN of an access point; `None` for any other bucket.
pub fn region_of_access_point(bucket: &str) -> Option<&str> {
    access_point(bucket).and_then(|_| bucket.split(':').nth(3))
}

fn parse_directory(path: &str) -> Option<Location> {
    let trimmed = path.trim_end_matches('/');
    let path = if trimmed.is_empty() { path.get(..1)? } else { trimmed };
    Path::new(path).is_absolute().then(|| Location::Directory(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_location() -> impl Strategy<Value = Location> {
        prop_oneof![
            "(/[^/\\p{C}]{1,8}){1,4}|/".prop_map(|path| Location::Directory(PathBuf::from(path))),
            (
                "[A-Za-z0-9._-]{1,20}|arn:aws(-cn)?:s3:[a-z0-9-]{1,9}:[0-9]{12}:accesspoint[/:][a-z0-9-]{1,9}",
                "([a-zA-Z0-9 =+_-]{1,8}(/[a-zA-Z0-9 =+_-]{1,8}){0,3})?"
            )
                .prop_map(|(name, prefix)| Location::Bucket { name, prefix }),
        ]
    }

    proptest! {
        #[test]
        fn parse_undoes_display(location in any_location()) {
            prop_assert_eq!(location.to_string().parse::<Location>().unwrap(), location);
        }

        #[test]
        fn slashes_at_the_end_change_nothing(location in any_location(), slashes in "/{0,3}") {
            prop_assert_eq!(format!("{location}{slashes}").parse::<Location>().unwrap(), location);
        }

        #[test]
        fn whatever_parses_is_written_so_that_it_parses_the_same(text in "(s3|file)://[a-z./]{0,12}|.{0,20}") {
            if let Ok(location) = text.parse::<Location>() {
                prop_assert_eq!(location.to_string().parse::<Location>().unwrap(), location);
            }
        }
    }

    #[test]
    fn addresses_that_could_mean_two_places_are_refused() {
        for text in [
            "",
            "/backups",
            "s3:/b",
            "s3://",
            "s3:///path",
            "s3://b//path",
            "s3://b/a/../c",
            "s3://b/a\nc",
            "s3://user:pass@b/",
            "S3://b",
            "https://b/path",
            "file://",
            "file://host/path",
            "file://relative",
            "file://localhost",
            "file://localhosts/path",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert!(error.advice().unwrap().contains("s3://bucket/path"), "{text:?}");
        }
    }

    #[test]
    fn an_access_point_is_a_bucket_with_a_slash_and_one_of_several_regions_is_none() {
        let parse = |text: &str| match text.parse::<Location>() {
            Ok(Location::Bucket { name, prefix }) => Ok((name, prefix)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.advice().unwrap().to_owned()),
        };
        for arn in [
            "arn:aws:s3:eu-central-1:111111111111:accesspoint/wal",
            "arn:aws-cn:s3:cn-north-1:111111111111:accesspoint:wal",
        ] {
            for (rest, prefix) in [("", ""), ("/", ""), ("/some/where", "some/where")] {
                assert_eq!(parse(&format!("s3://{arn}{rest}")), Ok((arn.to_owned(), prefix.to_owned())));
            }
            assert_eq!(region_of_access_point(arn), arn.split(':').nth(3));
        }
        assert_eq!(region_of_access_point("bucket"), None);
        for arn in [
            "arn:aws:s3::111111111111:accesspoint/mfzwi23gnjvgw.mrap",
            "arn:aws:s3:eu-central-1:111111111111:accesspoint/",
            "arn:aws:s3:eu-central-1:111111111111:accesspoints/x",
            "arn:aws:s3:eu-central-1::accesspoint/x",
            "arn:aws:s3:::bucket",
            "arn:aws:s3-outposts:eu-central-1:111111111111:outpost/op-1/accesspoint/x",
            "arn:",
        ] {
            assert!(parse(&format!("s3://{arn}/path")).unwrap_err().contains("accesspoint/NAME"), "{arn}");
        }
    }

    #[test]
    fn a_missing_setting_names_the_flag_the_variable_and_the_key() {
        let error = Settings::default().get(&options::PREFIX).unwrap_err();
        assert_eq!((error.kind(), error.what()), (Kind::Config, "prefix is not set"));
        for place in ["--prefix s3://", "WALDEN_PREFIX", "prefix = \"s3://"] {
            assert!(error.advice().unwrap().contains(place), "{error:?}");
        }
    }

    #[test]
    fn defaults_come_from_the_table() {
        let settings = Settings::default();
        assert_eq!(settings.get(&options::PART_SIZE).unwrap(), 32 << 20);
        assert_eq!(settings.origin(&options::PART_SIZE.row), Some(Origin::Default));
        assert_eq!(settings.find(&options::WORKERS).unwrap(), None);
        assert_eq!(settings.origin(&options::WORKERS.row), None);
    }
}
