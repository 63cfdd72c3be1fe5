//! Archives that WAL-E and WAL-G wrote, read and never written: their objects, down to plain bytes.
//!
//! What is below: [`codec`], how they compress, and [`cipher`], how they encrypt. Never decides what the absence of an
//! object means, and knows nothing of what the files are for.

pub mod cipher;
pub mod codec;
