//! What tags stood for: a record of each tag for each kind of `Accept`.

use std::collections::HashMap;
use std::sync::Arc;

use redb::{Error, ReadableDatabase, ReadableTable};

use super::db::TAGS;
use super::images::after;
use super::writer::Op;
use super::{Index, MOST_LOOKED_AT};
use crate::oci::digest::{Algorithm, Digest};

/// What a tag stood for when an upstream last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: String,
    pub media_type: String,
    /// Bytes of the manifest.
    pub size: u64,
    /// Seconds since the epoch of the upstream's last word.
    pub confirmed: u64,
}

// === impl Index ===

impl Index {
    /// The record of `tag_key`, see [`tag_key`].
    pub fn tag(&self, tag_key: &str) -> Option<Arc<TagRecord>> {
        let read = || {
            if self.recent.is_untagged(tag_key) {
                return Some(None);
            }
            self.db.read(|db| {
                let table = db.begin_read()?.open_table(TAGS)?;
                let found = table.get(tag_key)?;
                Ok(found.map(|value| Arc::new(tag_record(value.value()))))
            })
        };
        self.recent.tags.get_or_read(tag_key, read)?
    }

    /// Records of one tag that are `wanted`, whatever `Accept` they answer.
    pub fn tag_variants(
        &self,
        tag_prefix: &str,
        wanted: impl Fn(&TagRecord) -> bool,
    ) -> Vec<TagRecord> {
        let variants = self.variants(tag_prefix, wanted);
        variants.into_iter().map(|(_, record)| record).collect()
    }

    /// Forgets the written records of one tag that are `wanted`, whatever `Accept` they answer.
    pub async fn forget_variants(&self, tag_prefix: &str, wanted: impl Fn(&TagRecord) -> bool) {
        for (tag_key, _) in self.variants(tag_prefix, wanted) {
            self.set_tag(tag_key, None).await;
        }
    }

    fn variants(
        &self,
        tag_prefix: &str,
        wanted: impl Fn(&TagRecord) -> bool,
    ) -> Vec<(String, TagRecord)> {
        if self.recent.is_untagged(tag_prefix) {
            return Vec::new();
        }
        let listed = self.db.read(|db| {
            let table = db.begin_read()?.open_table(TAGS)?;
            let mut found = Vec::new();
            for entry in table.range(tag_prefix..)?.take(MOST_LOOKED_AT) {
                let (key, value) = entry?;
                let key = key.value();
                if !key.starts_with(tag_prefix) {
                    break;
                }
                // What was said of it since, and is not written yet, is what counts.
                let record = match self.recent.tags.known(key) {
                    None => Some(tag_record(value.value())),
                    Some(told) => told.map(|told| (*told).clone()),
                };
                let record = record.filter(&wanted);
                found.extend(record.map(|record| (key.to_owned(), record)));
                if found.len() == MOST_VARIANTS {
                    break;
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Remembers or (`None`) forgets a tag.
    pub async fn set_tag(&self, tag_key: String, record: Option<TagRecord>) {
        if let Some(record) = &record {
            self.protect_tag(&tag_key, &record.digest);
        }
        self.heard.forget(&tag_key);
        let known = record.clone().map(Arc::new);
        self.recent.tags.set(tag_key.clone(), known);
        self.send(Op::Tag(tag_key, record)).await;
    }

    /// Forgets what a tag stood for, whatever `Accept` asked: it was pushed anew.
    pub async fn untag(&self, tag_prefix: String) {
        self.heard.forget_tag(&tag_prefix);
        self.recent.untag(&tag_prefix);
        self.send(Op::Untag(tag_prefix)).await;
    }

    /// Forgets that tags of a repository stood for `digest`: it was deleted. Not of what is pinned, which
    /// somebody wants kept.
    pub async fn untag_digest(&self, origin: &str, repository: &str, digest: &Digest) {
        let prefix = format!("{origin}\n{repository}\n");
        let listed = self.db.read(|db| {
            let table = db.begin_read()?.open_table(TAGS)?;
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..after(&prefix).as_str())? {
                let (key, value) = entry?;
                if value.value().0 == digest.as_str() {
                    found.push(key.value().to_owned());
                }
            }
            Ok(found)
        });
        for key in listed.unwrap_or_default() {
            let name = key.rfind('\n').map_or(&*key, |at| &key[..=at]);
            if !self.pins.is_pinned(name) {
                self.set_tag(key, None).await;
            }
        }
    }
}

/// The key under which a tag's answer to one kind of `Accept` is remembered, see [`accept_hash`].
pub fn tag_key(origin: &str, repository: &str, tag: &str, accept_hash: &str) -> String {
    let mut key = tag_prefix(origin, repository, tag);
    key.push_str(accept_hash);
    key
}

/// A client's `Accept` may be of any length; what it is known by here is not.
pub fn accept_hash(accept: &str) -> String {
    Digest::of(Algorithm::Sha256, accept.as_bytes()).hex()[..32].to_owned()
}

/// What all of a tag's keys begin with.
pub fn tag_prefix(origin: &str, repository: &str, tag: &str) -> String {
    // Room for an `accept_hash`, too.
    let length = origin.len() + repository.len() + tag.len() + 40;
    let mut prefix = String::with_capacity(length);
    for part in [origin, repository, tag] {
        prefix.push_str(part);
        prefix.push('\n');
    }
    prefix
}

pub(super) fn tag_record(
    (digest, media_type, size, confirmed): (&str, &str, u64, u64),
) -> TagRecord {
    TagRecord {
        digest: digest.to_owned(),
        media_type: media_type.to_owned(),
        size,
        confirmed,
    }
}

/// The variant of a tag that goes because `fresh` came, where there are more than [`MOST_VARIANTS`]: whoever
/// sends an `Accept` that nobody sent before fills no disk. It is the one that was confirmed longest ago, of
/// those that are not the last to stand for a digest.
pub(super) fn one_too_many(
    tags: &impl ReadableTable<&'static str, (&'static str, &'static str, u64, u64)>,
    fresh: &str,
) -> Result<Option<String>, Error> {
    let prefix = fresh.rfind('\n').map_or(fresh, |at| &fresh[..=at]);
    // What was carried in by hand was confirmed by nobody.
    let imported = accept_hash(IMPORTED);
    let mut variants = Vec::new();
    let mut standing: HashMap<String, usize> = HashMap::new();
    for entry in tags.range(prefix..after(prefix).as_str())? {
        let (key, value) = entry?;
        let (key, (digest, _, _, confirmed)) = (key.value(), value.value());
        *standing.entry(digest.to_owned()).or_default() += 1;
        variants.push((confirmed, key.to_owned(), digest.to_owned()));
    }
    if variants.len() <= MOST_VARIANTS {
        return Ok(None);
    }
    let may_go = variants
        .into_iter()
        .filter(|(_, key, _)| key != fresh && !key.ends_with(&imported));
    let gone = may_go.min_by_key(|(confirmed, _, digest)| (standing[digest] == 1, *confirmed));
    Ok(gone.map(|(_, key, _)| key))
}

/// In an `Accept`'s place: an import answers all of them.
pub const IMPORTED: &str = "import";
/// Of one tag, for ever other `Accept` lists.
pub(super) const MOST_VARIANTS: usize = 64;
