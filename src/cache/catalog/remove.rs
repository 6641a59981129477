//! What is taken out by hand.
use super::*;
use crate::cache::Cache;
use crate::cache::index::IndexError;

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// On disk.
    pub bytes: u64,
}

impl Cache {
    /// Forgets an image, pinned or not: its tag, its manifests, and the blobs that no other cached
    /// manifest refers to. Who reads one of them reads it to its end.
    pub async fn remove(&self, image: &ImageId) -> Result<Removed, IndexError> {
        todo!("{image}")
    }
    /// Forgets every image of a repository.
    pub async fn remove_repository(
        &self,
        origin: &str,
        repository: &RepoName,
    ) -> Result<Removed, IndexError> {
        todo!("{origin} {repository}")
    }
    /// Takes out objects that were not used for `unused_for`, but for what is pinned or being read.
    pub async fn prune(&self, unused_for: Duration) -> Result<Removed, IndexError> {
        todo!("{unused_for:?}")
    }
}
