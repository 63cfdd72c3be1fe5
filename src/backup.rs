//! Base backups: what one consists of, how one is taken, and which exist.

pub mod cat;
pub mod catalogue;
mod copy;
pub mod damage;
pub mod delete;
pub mod garbage;
mod journal;
mod listing;
pub mod manifest;
pub mod mark;
mod pack;
mod pages;
mod plan;
mod preflight;
pub mod push;
mod read;
pub mod remote;
mod resume;
pub mod retention;
mod session;
mod volume;
mod wait;
