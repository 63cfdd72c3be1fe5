//! WAL-G's list of the files of a backup, `files_metadata.json`, entry by entry: it can be larger than a GiB. Pure.
//!
//! `Files` says of each path what the backup has of it, `TarFileSets` which archive holds which paths. Both may also stand
//! in a sentinel, where early versions kept them. Everything else is passed over.

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Result;
use crate::legacy::sentinel::json_error;

/// What a backup has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All of it.
    Whole,
    /// The pages that have changed since the backup before.
    Increment,
    /// Nothing: it has not changed since the backup before.
    Nothing,
}

/// Someone who is told of each entry. Paths are as they are written there.
pub trait Reader {
    /// An entry of `Files`.
    fn file(&mut self, path: &str, content: Content);
    /// An entry of `TarFileSets` begins.
    fn archive(&mut self, _name: &str) {}
    /// A path in the archive that was told of last.
    fn member(&mut self, _path: &str) {}
}

/// Reads all of it. What the reader was told counts only if this returns `Ok`.
///
/// # Errors
/// [`crate::error::Kind::Corrupt`] if it is not such a list; those of the source.
pub fn read(source: impl Read, reader: &mut impl Reader) -> Result<()> {
    let mut json = serde_json::Deserializer::from_reader(source);
    Top(reader).deserialize(&mut json).and_then(|()| json.end()).map_err(json_error)
}

/// `BackupFileDescription`
#[derive(Deserialize)]
struct Description {
    #[serde(rename = "IsIncremented", default)]
    is_incremented: bool,
    #[serde(rename = "IsSkipped", default)]
    is_skipped: bool,
}

/// A key, without keeping it where it is none that is looked for.
#[derive(Deserialize)]
enum Field {
    Files,
    TarFileSets,
    #[serde(other)]
    Other,
}

struct Top<'a, R>(&'a mut R);
struct Files<'a, R>(&'a mut R);
struct Archives<'a, R>(&'a mut R);
struct Members<'a, R>(&'a mut R);

impl<'de, R: Reader> DeserializeSeed<'de> for Top<'_, R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, R: Reader> Visitor<'de> for Top<'_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the list of the files of a backup")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                Field::Files => map.next_value_seed(Files(self.0))?,
                Field::TarFileSets => map.next_value_seed(Archives(self.0))?,
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Each of these may also be `null`: Go writes an empty map or slice so.
macro_rules! or_null {
    ($seed:ident, $expected:literal, $($visit:tt)*) => {
        impl<'de, R: Reader> DeserializeSeed<'de> for $seed<'_, R> {
            type Value = ();

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de, R: Reader> Visitor<'de> for $seed<'_, R> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expected)
            }

            fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
                Ok(())
            }

            $($visit)*
        }
    };
}

or_null!(
    Files,
    "an object with an entry for each file",
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((path, description)) = map.next_entry::<String, Description>()? {
            self.0.file(
                &path,
                match (description.is_incremented, description.is_skipped) {
                    (false, false) => Content::Whole,
                    (true, false) => Content::Increment,
                    (false, true) => Content::Nothing,
                    (true, true) => {
                        return Err(serde::de::Error::custom("a file is both incremented and skipped"));
                    }
                },
            );
        }
        Ok(())
    }
);

or_null!(
    Archives,
    "an object with an entry for each archive",
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.0.archive(&name);
            map.next_value_seed(Members(self.0))?;
        }
        Ok(())
    }
);

or_null!(
    Members,
    "a list of paths",
    fn visit_seq<A: SeqAccess<'de>>(self, mut paths: A) -> std::result::Result<(), A::Error> {
        while let Some(path) = paths.next_element::<String>()? {
            self.0.member(&path);
        }
        Ok(())
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[derive(Default)]
    struct Told(Vec<String>);

    impl Reader for Told {
        fn file(&mut self, path: &str, content: Content) {
            self.0.push(format!("{path} {content:?}"));
        }

        fn archive(&mut self, name: &str) {
            self.0.push(name.to_owned());
        }

        fn member(&mut self, path: &str) {
            self.0.push(format!("  {path}"));
        }
    }

    fn told(text: &str) -> Result<Vec<String>> {
        let mut told = Told::default();
        read(text.as_bytes(), &mut told)?;
        Ok(told.0)
    }

    #[test]
    fn entries_are_told_in_their_order_and_all_else_is_passed_over() {
        let text = r#"{"Files":{"/base/1/1259":{"IsIncremented":false,"IsSkipped":false,"MTime":"2024-05-01T10:00:00Z",
            "CorruptBlocks":null,"UpdatesCount":3},"/base/1/1":{"IsIncremented":true,"IsSkipped":false},
            "/base/1/2":{"IsSkipped":true}},"TarFileSets":{"part_001.tar.lz4":["/base/1/1259","/base/1/1"],
            "part_002.tar.lz4":null},"DatabasesByNames":{"db":{"oid":5,"tables_new":{"1":{"oid":2}}}}}"#;
        let expected = [
            "/base/1/1259 Whole",
            "/base/1/1 Increment",
            "/base/1/2 Nothing",
            "part_001.tar.lz4",
            "  /base/1/1259",
            "  /base/1/1",
            "part_002.tar.lz4",
        ];
        assert_eq!(told(text).unwrap(), expected);
        assert_eq!(told(r#"{"Files":null,"TarFileSets":null}"#).unwrap(), [""; 0]);
        assert_eq!(told(r#"{"LSN":1,"FinishLSN":2,"Files":{"a":{}}}"#).unwrap(), ["a Whole"]);
    }

    #[test]
    fn what_is_cut_or_something_else_is_corrupt() {
        let whole = r#"{"Files":{"/a":{"IsSkipped":true}},"TarFileSets":{"p":["/a"]}}"#;
        for text in (1..whole.len()).map(|end| &whole[..end]).chain([
            r#"[]"#,
            r#"{"Files":[]}"#,
            r#"{"Files":{"/a":1}}"#,
            r#"{"TarFileSets":{"p":[1]}}"#,
            r#"{"Files":{"/a":{"IsSkipped":true,"IsIncremented":true}}}"#,
            r#"{"Files":{}} x"#,
        ]) {
            assert_eq!(told(text).unwrap_err().kind(), Kind::Corrupt, "{text}");
        }
    }

    /// A source that goes on for ever would fill the memory if it were kept.
    #[test]
    fn a_long_list_is_not_kept() {
        struct Endless(usize, Vec<u8>);
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.1.is_empty() {
                    self.1 = match self.0 {
                        0 => br#"{"DatabasesByNames":{"x":1"#.to_vec(),
                        1..=50_000 => format!(r#","x{}":{{"tables":[1,2,3,4,5,6,7,8]}}"#, self.0).into_bytes(),
                        50_001 => br#"},"Files":{"a":{}"#.to_vec(),
                        50_002..=100_000 => format!(r#","/base/5/{}":{{"IsSkipped":true}}"#, self.0).into_bytes(),
                        100_001 => b"}}".to_vec(),
                        _ => return Ok(0),
                    };
                    self.0 += 1;
                }
                let count = buffer.len().min(self.1.len());
                buffer[..count].copy_from_slice(&self.1[..count]);
                self.1.drain(..count);
                Ok(count)
            }
        }
        struct Count(usize);
        impl Reader for Count {
            fn file(&mut self, _: &str, _: Content) {
                self.0 += 1;
            }
        }
        let mut count = Count(0);
        read(std::io::BufReader::new(Endless(0, Vec::new())), &mut count).unwrap();
        assert_eq!(count.0, 50_000);
    }
}
