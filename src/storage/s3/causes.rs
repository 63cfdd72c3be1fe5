//! What lies behind an error of the SDK's: its layers wrap each other's errors, and the innermost says most.

use std::error::Error as StdError;

/// The messages of an error and of what caused it, without repetitions.
pub(super) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        // Those of the SDK's chain of credentials have lines.
        let message = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ").replace(":; ", ": ");
        if !text.contains(&message) {
            text = if text.is_empty() { message } else { format!("{text}: {message}") };
        }
    }
    text
}

/// The first of them that is of this type.
pub(super) fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref::<T>())
}

/// An error and what caused it. `io::Error::source` passes over the error that it wraps.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}
