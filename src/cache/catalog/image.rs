//! Images as the operator names them: pinned, unpinned, imported.
use std::fmt;

use crate::cache::Cache;
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, RepoName};

/// An image in the cache: where it came from, and what it is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId {
    /// As in [`super::ImageRow::origin`].
    pub origin: String,
    pub repository: RepoName,
    pub reference: Reference,
}

/// Why an image could not be pinned or unpinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("nothing is known of {0}; pull it first")]
    Unknown(ImageId),
    #[error(transparent)]
    Index(#[from] crate::cache::index::IndexError),
}

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the manifest {0} is not in the cache; it has to be kept before it is imported")]
    Missing(Digest),
    #[error(transparent)]
    Index(#[from] crate::cache::index::IndexError),
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.reference.digest().is_some() {
            '@'
        } else {
            ':'
        };
        write!(
            f,
            "{}/{}{mark}{}",
            super::registry_of(&self.origin),
            self.repository,
            self.reference
        )
    }
}

impl Cache {
    /// Pins or unpins an image. What is pinned is never evicted or pruned, and a pinned tag is served
    /// while upstream is away for as long as that lasts. Unpinning ends what an import allowed.
    pub async fn pin(&self, image: &ImageId, pinned: bool) -> Result<(), PinError> {
        todo!("{image} {pinned}")
    }
    pub fn is_pinned(&self, image: &ImageId) -> bool {
        todo!("{image}")
    }

    /// Makes an image whose manifests and blobs were kept before (`put_blob`, `keep_manifest`) one of
    /// `image.repository`: its tag stands for `root`, it is pinned, and anybody may have it while no
    /// upstream says otherwise. Children of `root` that are not here are no error.
    pub async fn import_image(&self, image: &ImageId, root: &Digest) -> Result<(), ImportError> {
        todo!("{image} {root}")
    }
}
