//! Base backups: what one consists of, how one is taken, and which exist.

pub mod cat;
pub mod catalogue;
mod copy;
pub mod damage;
mod listing;
pub mod manifest;
mod pack;
mod pages;
mod plan;
pub mod push;
mod read;
mod volume;
