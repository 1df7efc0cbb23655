//! The content of files that a client reads only when it is created: certificates, keys and certificate authorities.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// A digest of a file's content. A reload compares the digests of the old and the new configuration, to notice that a file was
/// replaced under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        std::fs::read(file)?.hash(&mut hasher);
        Ok(Self(hasher.finish()))
    }
}
