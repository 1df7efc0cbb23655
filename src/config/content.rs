//! The content of files that a client reads only when it is created: certificates, keys and certificate authorities.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

/// A digest of a file's content, by which a reload notices that the file was replaced. Two configurations that name the same file
/// are equal only if the file had the same content when each of them was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        std::fs::read(file)?.hash(&mut hasher);
        Ok(Self(hasher.finish()))
    }
}
