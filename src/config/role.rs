//! A role to assume, and how it is written: its ARN, and what goes with it, set off by semicolons.
//!
//! Pure. Taking the role on is `storage::s3`'s business.

use std::time::Duration;

use crate::config::value::Value;
use crate::error::{Error, Kind, Result};
use crate::postgres::control::SystemId;

/// One role of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssumedRole {
    /// `arn:PARTITION:iam::ACCOUNT:role/NAME`.
    pub arn: String,
    /// What the owner of the role asks its users to name, if it does.
    pub external_id: Option<ExternalId>,
    /// What the session is called in the owner's logs.
    pub session_name: Option<String>,
    /// How long a session shall last; without it, as long as the service gives.
    pub duration: Option<Duration>,
    /// Tags of the session: keys and values.
    pub tags: Vec<(String, String)>,
    /// The region whose token service is asked, if not the store's.
    pub region: Option<String>,
    /// The token service's own address, if it is not the region's.
    pub endpoint: Option<String>,
}

/// The external id of a role: 2 to 1224 characters (AWS STS API Reference, "AssumeRole").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExternalId(String);

impl ExternalId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for ExternalId {
    fn read(text: &str) -> Result<ExternalId> {
        match has(text, 2..=1224, "+=,.@:/-_") {
            true => Ok(ExternalId(text.to_owned())),
            false => {
                Err(refused(text, "an external id").hint("Write 2 to 1224 letters, digits or +=,.@:/-_ characters."))
            }
        }
    }
}

impl Value for AssumedRole {
    fn read(text: &str) -> Result<AssumedRole> {
        let mut words = text.split(';');
        let arn = words.next().unwrap_or_default();
        if !is_role(arn) {
            return Err(refused(arn, "the ARN of a role").hint("Write arn:aws:iam::ACCOUNT:role/NAME."));
        }
        let mut role = AssumedRole {
            arn: arn.to_owned(),
            external_id: None,
            session_name: None,
            duration: None,
            tags: Vec::new(),
            region: None,
            endpoint: None,
        };
        words.try_for_each(|word| role.add(word))?;
        Ok(role)
    }
}

impl AssumedRole {
    fn add(&mut self, word: &str) -> Result<()> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let twice = match key {
            "external-id" => self.external_id.replace(ExternalId::read(value)?).is_some(),
            "session-name" => self.session_name.replace(session_name(value)?).is_some(),
            "duration" => self.duration.replace(duration(value)?).is_some(),
            "region" => self.region.replace(named(value, key)?).is_some(),
            "endpoint" => self.endpoint.replace(named(value, key)?).is_some(),
            _ => match key.strip_prefix("tag:") {
                Some(tag) => {
                    let twice = self.tags.iter().any(|(other, _)| other == tag);
                    self.tags.push((named(tag, "tag")?, value.to_owned()));
                    twice
                }
                None => return Err(refused(word, "what a role can have").hint(WORDS)),
            },
        };
        match twice {
            true => Err(Error::new(Kind::Usage, format!("{key} is given twice for {}", self.arn))),
            false => Ok(()),
        }
    }
}

const WORDS: &str = "Write ARN;external-id=ID;session-name=NAME;duration=1h;tag:KEY=VALUE;region=REGION;endpoint=URL, of \
                     which all but the ARN may be left out.";

/// 15 minutes to 12 hours (AWS STS API Reference, "AssumeRole"). The lower bound is the service's to enforce: others than
/// Amazon's give shorter sessions.
fn duration(text: &str) -> Result<Duration> {
    let duration = Duration::read(text)?;
    match (1..=43200).contains(&duration.as_secs()) && duration.subsec_nanos() == 0 {
        true => Ok(duration),
        false => Err(refused(text, "the duration of a session").hint("Write 15m to 12h.")),
    }
}

/// 2 to 64 characters (AWS STS API Reference, "AssumeRole").
fn session_name(text: &str) -> Result<String> {
    match has(text, 2..=64, SESSION_MARKS) {
        true => Ok(text.to_owned()),
        false => {
            Err(refused(text, "the name of a session").hint("Write 2 to 64 letters, digits or +=,.@-_ characters."))
        }
    }
}

const SESSION_MARKS: &str = "+=,.@-_";

/// A name for sessions whose role has none: it says which program it was, on which machine, and for which cluster.
pub fn usual_session_name(host: &str, system: Option<SystemId>) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || SESSION_MARKS.contains(c) { c } else { '-' };
    let cluster = system.map_or(String::new(), |system| format!("-{system}"));
    let host: String = host.chars().map(legal).take(64 - "walden-".len() - cluster.len()).collect();
    format!("walden-{host}{cluster}")
}

fn named(text: &str, what: &str) -> Result<String> {
    match text.is_empty() {
        true => Err(Error::new(Kind::Usage, format!("{what} of a role is empty")).hint(WORDS)),
        false => Ok(text.to_owned()),
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME` (IAM User Guide, "IAM identifiers").
fn is_role(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, name] = parts[..] else { return false };
    let account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let name = name.strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    arn == "arn" && !partition.is_empty() && service == "iam" && region.is_empty() && account && name
}

fn has(text: &str, length: std::ops::RangeInclusive<usize>, marks: &str) -> bool {
    length.contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
}

fn refused(text: &str, what: &str) -> Error {
    Error::new(Kind::Usage, format!("\"{text}\" is not {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARN: &str = "arn:aws:iam::111111111111:role/db/wal-writer";

    #[test]
    fn a_role_is_its_arn_and_what_goes_with_it_in_any_order() {
        let plain = AssumedRole::read(ARN).unwrap();
        assert_eq!((plain.arn.as_str(), plain.external_id, plain.tags.len()), (ARN, None, 0));
        let text = format!(
            "{ARN};duration=15m;external-id=a,b=c;tag:team=data base;session-name=db1;region=eu-central-1;endpoint=http://s:1/"
        );
        let role = AssumedRole::read(&text).unwrap();
        assert_eq!(role.external_id.unwrap().as_str(), "a,b=c");
        assert_eq!(role.duration, Some(Duration::from_secs(900)));
        assert_eq!(role.tags, [("team".to_owned(), "data base".to_owned())]);
        assert_eq!((role.session_name.as_deref(), role.region.as_deref()), (Some("db1"), Some("eu-central-1")));
        assert_eq!(role.endpoint.as_deref(), Some("http://s:1/"));
        assert!(AssumedRole::read("arn:aws-us-gov:iam::111111111111:role/x").is_ok());
    }

    #[test]
    fn what_the_service_would_refuse_is_refused_here() {
        for text in [
            "",
            "wal-writer",
            "111111111111",
            "arn:aws:iam::111111111111:user/pg",
            "arn:aws:iam::111111111111:role/",
            "arn:aws:iam::1111:role/x",
            "arn:aws:sts::111111111111:assumed-role/x/y",
        ] {
            let error = AssumedRole::read(text).unwrap_err();
            assert!(error.advice().unwrap().contains("arn:aws:iam::"), "{text:?}");
        }
        for word in [
            "",
            "external-id",
            "external-id=x",
            "external-id=a b",
            "externalid=abc",
            "session-name=a/b",
            "duration=13h",
            "duration=0s",
            "tag:=x",
            "region=",
            "endpoint=",
            "external-id=abc;external-id=abd",
            "tag:a=1;tag:a=2",
        ] {
            assert!(AssumedRole::read(&format!("{ARN};{word}")).is_err(), "{word:?}");
        }
    }

    proptest! {
        #[test]
        fn a_usual_session_name_is_always_legal(host in ".{0,100}", system in proptest::option::of(any::<u64>())) {
            let system = system.map(|system| system.to_string().parse().unwrap());
            prop_assert!(session_name(&usual_session_name(&host, system)).is_ok());
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,40}|arn:aws:iam::111111111111:role/x;[a-z:=;-]{0,30}") {
            let _ = (AssumedRole::read(&text), ExternalId::read(&text));
        }
    }
}
