//! Words in, words out: the command line, and what is printed.

pub mod arguments;
pub mod config;
mod help;
