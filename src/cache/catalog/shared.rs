//! One blob or manifest, and the images that share it.

use std::collections::HashSet;

use super::list::since;
use super::registry_of;
use crate::cache::Cache;
use crate::cache::index::images::Step;
use crate::oci::digest::Digest;
use crate::store::Key;

/// Who has an object in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Bytes; `None` where it is not here.
    pub size: Option<u64>,
    /// Seconds since the epoch when it came.
    pub since: Option<u64>,
    /// Seconds since the epoch when it was last used.
    pub last_use: Option<u64>,
    /// Cached manifests that refer to it.
    pub manifests: Vec<Digest>,
    /// Images whose tags lead to it (`docker.io/library/alpine:3`), in order.
    pub images: Vec<String>,
    /// There are more of them.
    pub more: bool,
}

// === impl Cache ===

impl Cache {
    /// What is known of a blob. Looks at every tag; at no file but the blob's own.
    pub async fn shared(&self, digest: &Digest) -> Shared {
        let (key, store) = (Key::blob(digest), self.store.clone());
        let looked = self.read(move |index| {
            let parents = index.parents(&key, MOST_PARENTS);
            let mut roots: HashSet<String> = HashSet::new();
            for parent in &parents {
                roots.insert(parent.digest.to_string());
                // An image of several platforms is tagged by its index.
                let indexes = index.parents(parent, MOST_PARENTS).into_iter();
                roots.extend(indexes.map(|index| index.digest.to_string()));
            }
            let mut shared = Shared {
                manifests: parents.into_iter().map(|key| key.digest).collect(),
                ..Shared::default()
            };
            if let Some(info) = index.object(&key) {
                shared.size = Some(info.size);
                shared.last_use = Some(info.last_use / 1_000_000);
                shared.since = since(&store, &key);
            }
            if roots.is_empty() {
                return shared;
            }
            index.walk_tags(String::new(), |row| {
                if roots.contains(&row.record.digest) {
                    let registry = registry_of(row.origin);
                    let name = format!("{registry}/{}:{}", row.repository, row.tag);
                    if shared.images.last() != Some(&name) {
                        shared.images.push(name);
                    }
                }
                if shared.images.len() > MOST_IMAGES {
                    shared.images.pop();
                    shared.more = true;
                    return Step::Stop;
                }
                Step::Next
            });
            shared
        });
        looked.await.unwrap_or_default()
    }
}

/// Nobody reads further.
const MOST_PARENTS: usize = 1000;
const MOST_IMAGES: usize = 500;
