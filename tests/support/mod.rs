//! What the tests stand on: an S3 that fails on command, the walden program, forged files, real servers.

#![allow(dead_code, reason = "every test binary includes all of this and uses its own part")]

pub mod s3;
