//! Words that are told in more than one room. Pure.

/// A number of things: "1 segment", "2 segments".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
