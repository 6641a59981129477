//! Images as the operator names them: pinned, unpinned, imported.

use std::collections::HashSet;
use std::fmt;

use super::registry_of;
use crate::cache::Cache;
use crate::cache::index::images::image_name;
use crate::cache::index::{IMPORTED, IndexError, TagRecord, accept_hash, now_seconds, tag_key};
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, RepoName};
use crate::store::Key;

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
    Index(#[from] IndexError),
}

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the manifest {0} is not in the cache; it has to be kept before it is imported")]
    Missing(Digest),
    #[error(transparent)]
    Index(#[from] IndexError),
}

// === impl ImageId ===

impl ImageId {
    /// As the index names it.
    pub(super) fn name(&self) -> String {
        image_name(
            &self.origin,
            self.repository.as_str(),
            self.reference.as_str(),
        )
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.reference {
            Reference::Digest(_) => '@',
            Reference::Tag(_) => ':',
        };
        let registry = registry_of(&self.origin);
        write!(f, "{registry}/{}{mark}{}", self.repository, self.reference)
    }
}

// === impl Cache ===

impl Cache {
    /// Pins or unpins an image. What is pinned is never evicted or pruned, and a pinned tag is served
    /// while upstream is away for as long as that lasts. Unpinning ends what an import allowed.
    pub async fn pin(&self, image: &ImageId, pinned: bool) -> Result<(), PinError> {
        let name = image.name();
        match pinned {
            false => self.unpin(image).await?,
            true => {
                let roots = self.index.roots(&name);
                let known = |root: &Digest| self.index.object(&Key::manifest(root)).is_some();
                if !roots.iter().any(known) {
                    return Err(PinError::Unknown(image.clone()));
                }
                // An import that is pinned anew stays one.
                let imported = self.index.pin(&name).unwrap_or(false);
                self.index.set_pin(&name, Some(imported)).await?;
            }
        }
        self.protect().await;
        Ok(())
    }

    pub fn is_pinned(&self, image: &ImageId) -> bool {
        self.index.pins().is_pinned(&image.name())
    }

    /// Makes an image whose manifests and blobs were kept before (`put_blob`, `keep_manifest`) one of
    /// `image.repository`: its tag stands for `root`, it is pinned, and anybody may have it while no
    /// upstream says otherwise. Children of `root` that are not here are no error.
    pub async fn import_image(&self, image: &ImageId, root: &Digest) -> Result<(), ImportError> {
        let manifest = self.manifest(root).await;
        let manifest = manifest.ok_or_else(|| ImportError::Missing(root.clone()))?;
        let (repository, reference) = (image.repository.as_str(), image.reference.as_str());
        if image.reference.tag().is_some() {
            // What stood here before is not what was carried here.
            self.index.untag(image.name()).await;
            let hash = accept_hash(IMPORTED);
            let key = tag_key(&image.origin, repository, reference, &hash);
            let record = TagRecord {
                digest: root.to_string(),
                media_type: manifest.media_type.to_string(),
                size: manifest.bytes.len() as u64,
                confirmed: now_seconds(),
            };
            self.index.set_tag(key, Some(record)).await;
        }
        self.index.set_pin(&image.name(), Some(true)).await?;
        self.protect().await;
        self.release(image).await?;
        Ok(())
    }

    pub(super) async fn unpin(&self, image: &ImageId) -> Result<(), IndexError> {
        let imported = self.index.pin(&image.name()).unwrap_or(false);
        self.index.set_pin(&image.name(), None).await?;
        if imported {
            self.release(image).await?;
        }
        Ok(())
    }

    /// What anybody may have of the image's repository is what its imported images are made of.
    async fn release(&self, image: &ImageId) -> Result<(), IndexError> {
        let (origin, repository) = (image.origin.clone(), image.repository.to_string());
        let found = self
            .read(move |index| {
                let mut keys = HashSet::new();
                for name in index.released_pins(&origin, &repository) {
                    for root in index.roots(&name) {
                        keys.extend(index.tree(&Key::manifest(&root)));
                    }
                }
                keys
            })
            .await;
        let (origin, repository) = (&image.origin, image.repository.as_str());
        let keys = found.unwrap_or_default();
        self.index.release(origin, repository, keys).await
    }
}
