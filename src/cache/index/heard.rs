//! What upstream has said of tags that moved, until the manifests they moved to are here.
//!
//! Only then does the new word replace the old one: should upstream fail in between, the manifest that is
//! here is what can be served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{Index, TagRecord, lock};
use crate::oci::digest::Digest;
use crate::store::Key;

/// In memory alone: who forgets it asks upstream once more. By [`super::tag_key`].
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<String, Arc<TagRecord>>>);

// === impl Index ===

impl Index {
    /// Upstream says this of a tag. It is remembered; where the tag stood for something else until now,
    /// once the manifest is here.
    pub async fn hear_tag(&self, tag_key: String, record: TagRecord) {
        let digest: Option<Digest> = record.digest.parse().ok();
        let before = self.tag(&tag_key);
        let moved = before.is_some_and(|before| before.digest != record.digest);
        let (Some(digest), true) = (digest, moved) else {
            return self.set_tag(tag_key, Some(record)).await;
        };
        self.heard.keep(tag_key, record);
        // Looked for after it was noted: it may be coming in at this moment.
        if self.object(&Key::manifest(&digest)).is_some() {
            self.believe(&digest).await;
        }
    }

    /// What upstream has said last of a tag that moved to what is not here yet.
    pub fn heard_tag(&self, tag_key: &str) -> Option<Arc<TagRecord>> {
        lock(&self.heard.0).get(tag_key).cloned()
    }

    /// The manifest is here: what was said of tags that moved to it counts.
    pub async fn believe(&self, manifest: &Digest) {
        for (tag_key, record) in self.heard.of(manifest) {
            self.set_tag(tag_key, Some((*record).clone())).await;
        }
    }
}

// === impl Heard ===

impl Heard {
    pub(super) fn forget(&self, tag_key: &str) {
        lock(&self.0).remove(tag_key);
    }

    /// All of a tag's, whatever `Accept` asked.
    pub(super) fn forget_tag(&self, tag_prefix: &str) {
        lock(&self.0).retain(|tag_key, _| !tag_key.starts_with(tag_prefix));
    }

    fn keep(&self, tag_key: String, record: TagRecord) {
        let mut heard = lock(&self.0);
        if heard.len() >= MOST {
            heard.clear();
        }
        heard.insert(tag_key, Arc::new(record));
    }

    fn of(&self, manifest: &Digest) -> Vec<(String, Arc<TagRecord>)> {
        let heard = lock(&self.0);
        let of = heard
            .iter()
            .filter(|(_, record)| record.digest == manifest.as_str());
        of.map(|(tag_key, record)| (tag_key.clone(), record.clone()))
            .collect()
    }
}

/// Some hundred bytes each; that many tags seldom move to what nobody fetches.
const MOST: usize = 2000;
