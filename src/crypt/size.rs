//! How large age files are, and where in them something lies. Pure.

use std::ops::Range;

/// Plain bytes of one chunk of an age file: what can be decrypted by itself (the age specification, "Payload").
pub const CHUNK: u64 = 64 << 10;

/// What a chunk takes beyond its plain bytes: its Poly1305 tag.
pub const TAG: u64 = 16;

/// No head of an age file with a single recipient is longer. The crate adds a random stanza that means nothing, of some 300
/// bytes at most (`grease_the_joint` in age-core).
pub const LONGEST_HEAD: u64 = 1024;

/// Bytes of an age file with such a head.
pub fn sealed_size(head: u64, plain: u64) -> u64 {
    head + plain + TAG * plain.div_ceil(CHUNK).max(1)
}

/// So many plain bytes fit into an age file of `size` bytes, whatever its head.
pub fn room(size: u64) -> u64 {
    let left = size.saturating_sub(LONGEST_HEAD);
    left.saturating_sub(TAG * left.div_ceil(CHUNK + TAG))
}

/// Which bytes of an age file of `size` bytes hold these plain ones, which are some: whole chunks.
pub fn chunks(head: u64, size: u64, plain: Range<u64>) -> Range<u64> {
    let start = |chunk: u64| head + chunk * (CHUNK + TAG);
    let last = plain.end.saturating_sub(1) / CHUNK;
    start(plain.start / CHUNK)..start(last + 1).min(size)
}
