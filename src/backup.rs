//! Base backups: what one consists of, how one is taken, and which exist.

pub mod catalogue;
mod copy;
mod listing;
pub mod manifest;
pub mod mark;
mod pack;
mod plan;
mod preflight;
pub mod push;
mod read;
mod session;
mod volume;
mod wait;
