//! What the tests stand on: the walden program, an S3 that fails on command, forged files, real servers.

#![allow(dead_code, reason = "every test binary includes all of this and uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test they are assertions")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the test runner shows it where a test fails")]

pub mod archive;
pub mod archiver;
pub mod browser;
pub mod cluster;
pub mod failing_disk;
pub mod forge;
pub mod front;
pub mod keys;
pub mod legacy;
pub mod load;
pub mod metadata;
pub mod ministack;
pub mod patience;
pub mod place;
pub mod random;
pub mod s3;
pub mod scene;
pub mod sdk;
pub mod seaweedfs;
pub mod small_disk;
pub mod stories;
pub mod tls;
pub mod user;
pub mod walden;
pub mod wale;
pub mod walg;
