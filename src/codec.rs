//! Self-describing objects: a header in a zstd skippable frame, then the payload (docs/format.md, "Objects").
//!
//! Stock `zstd -d` passes over the header and prints the plain file. Blocking code that moves bytes in bounded chunks;
//! knows nothing of stores and of what the files mean.

mod decode;
mod encode;
mod frame;
mod header;
mod stream;

pub use self::decode::Decoder;
pub use self::encode::{SPOOL_THRESHOLD, encode};
pub use self::frame::{FrameReader, FrameWriter};
pub use self::header::{Description, Digest, Encryption, Header, LONGEST_HEADER};
pub use self::stream::StreamDecoder;
