//! What is taken out by hand.

use std::collections::HashSet;
use std::time::Duration;

use super::{Filter, ImageId, ImageRow};
use crate::cache::Cache;
use crate::cache::index::images::Step;
use crate::cache::index::{Index, IndexError, now_micros};
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, RepoName};
use crate::store::{Key, Kind};

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Or images that were known by their digests alone.
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// On disk.
    pub bytes: u64,
}

// === impl Removed ===

impl Removed {
    fn add(&mut self, other: Self) {
        self.tags += other.tags;
        self.manifests += other.manifests;
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

// === impl Cache ===

impl Cache {
    /// Forgets an image, pinned or not: its tag, its manifests, and the blobs that no other cached
    /// manifest refers to. Who reads one of them reads it to its end.
    pub async fn remove(&self, image: &ImageId) -> Result<Removed, IndexError> {
        let name = image.name();
        let roots = self.index.roots(&name);
        let known = |root: &Digest| self.index.object(&Key::manifest(root)).is_some();
        if !roots.iter().any(known) && image.reference.digest().is_some() {
            return Ok(Removed::default());
        }
        self.unpin(image).await?;
        if image.reference.tag().is_some() {
            self.index.untag(name).await;
        }
        // What is looked at next must know all this.
        self.protect().await;
        let mut removed = Removed {
            tags: u64::from(!roots.is_empty()),
            ..Removed::default()
        };
        let going = self.read(move |index| not_needed(index, &roots)).await;
        for part in going.unwrap_or_default().chunks(BATCH) {
            removed.add(self.take_out(part.to_vec()).await);
        }
        Ok(removed)
    }

    /// Forgets every image of a repository.
    pub async fn remove_repository(
        &self,
        origin: &str,
        repository: &RepoName,
    ) -> Result<Removed, IndexError> {
        let filter = Filter {
            registry: Some(origin.to_owned()),
            repository: Some(repository.to_string()),
            limit: Filter::MOST,
            ..Filter::default()
        };
        let mut removed = Removed::default();
        let mut page = self.images(&filter).await;
        loop {
            for row in page.rows.iter().filter(|row| row.origin == origin) {
                if let Some(image) = named(row) {
                    removed.add(self.remove(&image).await?);
                }
            }
            let Some(next) = page.next else { break };
            let filter = Filter {
                after: Some(next),
                ..filter.clone()
            };
            page = self.images(&filter).await;
        }
        Ok(removed)
    }

    /// Takes out objects that were not used for `unused_for`, but for what is pinned or being read.
    pub async fn prune(&self, unused_for: Duration) -> Result<Removed, IndexError> {
        // Uses that are still in memory count.
        self.index.flush().await?;
        self.index.pins().ready().await;
        let micros = u64::try_from(unused_for.as_micros()).unwrap_or(u64::MAX);
        let before = now_micros().saturating_sub(micros);
        let mut removed = Removed::default();
        loop {
            let space = self.space.clone();
            let cold = self
                .read(move |index| index.unused_since(before, BATCH, |key| space.may_go(key)))
                .await
                .unwrap_or_default();
            let wanted = cold.len();
            let manifests = cold
                .iter()
                .filter(|(key, _)| key.kind == Kind::Manifest)
                .count();
            let keys = cold.iter().map(|(key, _)| key.clone()).collect();
            let gone = self.space.remove(keys).await;
            self.forget_manifests(&cold);
            let Some(gone) = gone else { break };
            let manifests = (manifests as u64).min(gone.objects);
            removed.add(Removed {
                tags: 0,
                manifests,
                blobs: gone.objects - manifests,
                bytes: gone.bytes,
            });
            // Others that were opened meanwhile would be listed for ever.
            if wanted < BATCH || gone.objects == 0 {
                break;
            }
        }
        Ok(removed)
    }

    /// Takes out again what was brought here and what no image that has a name needs. Who reads one of
    /// them reads it to its end.
    pub async fn take_back(&self, brought: HashSet<Key>) -> Removed {
        // What is looked at next must know all that was said.
        self.protect().await;
        let going = self
            .read(move |index| not_needed_of(index, brought))
            .await
            .unwrap_or_default();
        let mut removed = Removed::default();
        for part in going.chunks(BATCH) {
            removed.add(self.take_out(part.to_vec()).await);
        }
        removed
    }

    /// Takes objects out even if somebody reads them.
    pub(super) async fn take_out(&self, going: Vec<(Key, u64)>) -> Removed {
        let manifests = going
            .iter()
            .filter(|(key, _)| key.kind == Kind::Manifest)
            .count();
        let blobs = going.len() - manifests;
        let keys = going.iter().map(|(key, _)| key.clone()).collect();
        let gone = self.space.remove_at_once(keys).await;
        self.forget_manifests(&going);
        let gone = gone.unwrap_or_default();
        Removed {
            tags: 0,
            manifests: (manifests as u64).min(gone.objects),
            blobs: (blobs as u64).min(gone.objects.saturating_sub(manifests as u64)),
            bytes: gone.bytes,
        }
    }

    fn forget_manifests(&self, going: &[(Key, u64)]) {
        for (key, _) in going {
            if key.kind == Kind::Manifest {
                self.manifests.invalidate(&key.digest);
            }
        }
    }
}

/// The objects that nothing but these manifests needs. A manifest is needed by a tag, by a pin and by
/// an index that is here; a blob by a manifest that stays, and by a pin.
fn not_needed(index: &Index, roots: &[Digest]) -> Vec<(Key, u64)> {
    let mut tree = HashSet::new();
    for root in roots {
        tree.extend(index.tree(&Key::manifest(root)));
    }
    not_needed_of(index, tree)
}

/// Those of `tree` that nothing else needs.
fn not_needed_of(index: &Index, mut tree: HashSet<Key>) -> Vec<(Key, u64)> {
    let mut tagged = Vec::new();
    index.walk_tags(String::new(), |row| {
        if let Ok(digest) = row.record.digest.parse::<Digest>() {
            let key = Key::manifest(&digest);
            if tree.contains(&key) {
                tagged.push(key);
            }
        }
        Step::Next
    });
    for needed in tagged.iter().flat_map(|key| index.tree(key)) {
        tree.remove(&needed);
    }
    tree.retain(|key| !index.pins().protects(key));
    // Who is needed by one that stays, stays, and with it what it needs.
    loop {
        let stays: Vec<Key> = tree
            .iter()
            .filter(|key| {
                let parents = index.parents(key, MOST_PARENTS);
                parents.iter().any(|parent| !tree.contains(parent))
            })
            .cloned()
            .collect();
        if stays.is_empty() {
            break;
        }
        for key in stays {
            for about in index.referrers(&key) {
                tree.remove(&about);
            }
            tree.remove(&key);
        }
    }
    let sized = tree.into_iter().filter_map(|key| {
        let known = index.object(&key)?;
        Some((key, known.size))
    });
    sized.collect()
}

fn named(row: &ImageRow) -> Option<ImageId> {
    let reference = row.tag.as_deref().unwrap_or(&row.digest);
    Some(ImageId {
        origin: row.origin.clone(),
        repository: row.repository.parse().ok()?,
        reference: reference.parse::<Reference>().ok()?,
    })
}

const BATCH: usize = 64;
const MOST_PARENTS: usize = 10_000;
