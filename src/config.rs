//! x
/// x
#[derive(Clone, Debug)]
pub enum Location {
    /// x
    Directory(std::path::PathBuf),
    /// x
    Bucket {
        /// x
        name: String,
        /// x
        prefix: String,
    },
}
