//! Reads and changes of the index that are about images: trees of manifests, tags in ranges, pins.

use std::collections::BTreeSet;
use std::collections::HashSet;

use redb::{
    Database, Error, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use super::db::{
    CHILDREN, LEARNT, LRU, OBJECTS, PARENTS, PINS, REFERRERS, RELEASED, STANDING, TAGS,
};
use super::pins::Pins;
use super::tags::tag_record;
use super::writer::Op;
use super::{Index, IndexError, TagRecord, tag_prefix};
use crate::oci::digest::Digest;
use crate::oci::manifest::Children;
use crate::store::{Key, Kind};

/// What a cached manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub key: Key,
    /// Bytes.
    pub size: u64,
}

/// A record of a tag, with what it is a record of.
#[derive(Debug)]
pub struct TagRow<'a> {
    pub origin: &'a str,
    pub repository: &'a str,
    pub tag: &'a str,
    pub record: TagRecord,
}

/// How a walk over the tags goes on.
#[derive(Debug)]
pub enum Step {
    Next,
    /// With the first key that is not below this one.
    Seek(String),
    Stop,
}

/// Objects in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub objects: u64,
    pub manifests: u64,
    /// Seconds since the epoch.
    pub oldest_use: Option<u64>,
}

// === impl Index ===

impl Index {
    /// What is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Pins or unpins an image by its [`tag_prefix`]; `released`: anybody may have it while upstream
    /// is away.
    pub async fn set_pin(&self, name: &str, pin: Option<bool>) -> Result<(), IndexError> {
        self.acked(|ack| Op::Pin(name.to_owned(), pin, ack)).await?;
        self.pins.set_name(name, pin.is_some());
        Ok(())
    }

    /// Whether a pinned image was imported; `None` for one that is not pinned.
    pub fn pin(&self, name: &str) -> Option<bool> {
        self.db.read(|db| {
            let table = db.begin_read()?.open_table(PINS)?;
            Ok(table.get(name)?.map(|imported| imported.value() == 1))
        })?
    }

    /// The names of the imported images of one repository.
    pub fn released_pins(&self, origin: &str, repository: &str) -> Vec<String> {
        let prefix = format!("{origin}\n{repository}\n");
        let listed = self.db.read(|db| {
            let table = db.begin_read()?.open_table(PINS)?;
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..)? {
                let (name, released) = entry?;
                if !name.value().starts_with(&prefix) {
                    break;
                }
                if released.value() == 1 {
                    found.push(name.value().to_owned());
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Makes `keys`, and nothing else, what anybody may have of a repository while upstream is away.
    pub async fn release(
        &self,
        origin: &str,
        repository: &str,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<(), IndexError> {
        let prefix = format!("{origin}\n{repository}\n").into_bytes();
        let keys = keys.into_iter().map(|key| key.to_bytes()).collect();
        self.acked(|ack| Op::Release(prefix, keys, ack)).await
    }

    /// Whether an import made `key` everybody's in this repository.
    pub fn is_released(&self, origin: &str, repository: &str, key: &Key) -> bool {
        let name = in_repository(origin, repository, &key.to_bytes());
        let found = self.db.read(|db| {
            let table = db.begin_read()?.open_table(RELEASED)?;
            Ok(table.get(name.as_slice())?.is_some())
        });
        found.unwrap_or(false)
    }

    /// Remembers or (`None`) revokes a grant that counts for what is pinned in a repository, however
    /// long ago it was proven.
    pub async fn set_standing(
        &self,
        origin: &str,
        repository: &str,
        grant: &[u8; 32],
        at: Option<u64>,
    ) {
        let name = in_repository(origin, repository, grant);
        self.send(Op::Standing(name, at)).await;
    }

    pub fn has_standing(&self, origin: &str, repository: &str, grant: &[u8; 32]) -> bool {
        let name = in_repository(origin, repository, grant);
        let found = self.db.read(|db| {
            let table = db.begin_read()?.open_table(STANDING)?;
            Ok(table.get(name.as_slice())?.is_some())
        });
        found.unwrap_or(false)
    }

    /// Remembers what a cached manifest refers to.
    pub async fn set_children(&self, manifest: &Digest, children: &Children) {
        let key = Key::manifest(manifest);
        let subject = children.subject.as_ref().map(Key::manifest);
        let children = children_of(children);
        let of_pinned = |subject: &Key| self.pins.protects(subject);
        if self.pins.protects(&key) || subject.as_ref().is_some_and(of_pinned) {
            let mut tree = HashSet::from([key.clone()]);
            for child in &children {
                tree.extend(self.tree(&child.key));
            }
            self.pins.add(&tree);
        }
        self.send(Op::Children(key, children, subject)).await;
    }

    /// What a cached manifest refers to; `None` where that is not known.
    pub fn children(&self, manifest: &Key) -> Option<Vec<Child>> {
        self.db.read(|db| children_in(db, manifest))?
    }

    /// Cached manifests that refer to `key`, `limit` of them at most.
    pub fn parents(&self, key: &Key, limit: usize) -> Vec<Key> {
        self.behind(PARENTS, key, limit)
    }

    /// Cached manifests that are about `manifest` (their `subject`): signatures, bills of material.
    pub fn referrers(&self, manifest: &Key) -> Vec<Key> {
        self.behind(REFERRERS, manifest, MOST_REFERRERS)
    }

    /// Of a table of pairs of keys: the second ones behind `key`, as far as they are here.
    fn behind(
        &self,
        pairs: TableDefinition<'static, &'static [u8], ()>,
        key: &Key,
        limit: usize,
    ) -> Vec<Key> {
        let prefix = key.to_bytes();
        let listed = self.db.read(|db| {
            let read = db.begin_read()?;
            let (table, objects) = (read.open_table(pairs)?, read.open_table(OBJECTS)?);
            let mut found = Vec::new();
            for entry in table.range(prefix.as_slice()..)? {
                let (name, _) = entry?;
                let Some(second) = name.value().strip_prefix(prefix.as_slice()) else {
                    break;
                };
                if let Some(key) = Key::from_bytes(second)
                    && objects.get(second)?.is_some()
                {
                    found.push(key);
                }
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// `root`, all that it leads to, and what is about any of that, as far as the manifests on the way are
    /// known.
    pub fn tree(&self, root: &Key) -> HashSet<Key> {
        let mut seen = HashSet::from([root.clone()]);
        let mut ahead = vec![root.clone()];
        while let Some(key) = ahead.pop() {
            if key.kind == Kind::Blob || seen.len() > MOST_OF_A_TREE {
                continue;
            }
            let children = self.children(&key).unwrap_or_default();
            let children = children.into_iter().map(|child| child.key);
            for next in children.chain(self.referrers(&key)) {
                if seen.insert(next.clone()) {
                    ahead.push(next);
                }
            }
        }
        seen
    }

    /// Bytes of the blobs that a manifest leads to, and of those that are here.
    pub fn weigh(&self, root: &Key) -> (u64, u64) {
        let (mut total, mut here) = (0u64, 0u64);
        let mut seen = HashSet::from([root.clone()]);
        let mut ahead = vec![root.clone()];
        while let Some(key) = ahead.pop() {
            for child in self.children(&key).unwrap_or_default() {
                if !seen.insert(child.key.clone()) || seen.len() > MOST_OF_A_TREE {
                    continue;
                }
                match child.key.kind {
                    Kind::Manifest => ahead.push(child.key),
                    Kind::Blob => {
                        total = total.saturating_add(child.size);
                        if self.object(&child.key).is_some() {
                            here = here.saturating_add(child.size);
                        }
                    }
                }
            }
        }
        (total, here)
    }

    /// To be called before [`Index::protect`]: what was said until now is written then.
    pub async fn begin_to_protect(&self) {
        self.pins.begin();
        let _ = self.flush().await;
    }

    /// Finds out anew what the pinned images protect. Blocking, though briefly.
    pub fn protect(&self) {
        let mut keys = HashSet::new();
        for name in self.pins.names() {
            for root in self.roots(&name) {
                keys.extend(self.tree(&Key::manifest(&root)));
            }
        }
        self.pins.finish(keys);
    }

    /// What an image by its [`tag_prefix`] stands for, whatever `Accept` asked.
    pub fn roots(&self, name: &str) -> Vec<Digest> {
        let mut found: Vec<Digest> = Vec::new();
        match name.trim_end_matches('\n').rsplit('\n').next() {
            Some(digest) if digest.contains(':') => found.extend(digest.parse()),
            _ => {
                for record in self.tag_variants(name, |_| true) {
                    if let Ok(digest) = record.digest.parse()
                        && !found.contains(&digest)
                    {
                        found.push(digest);
                    }
                }
            }
        }
        found
    }

    /// Notes that a pinned tag stands for `digest` now.
    pub(super) fn protect_tag(&self, tag_key: &str, digest: &str) {
        let name = tag_key.rfind('\n').map(|at| &tag_key[..=at]);
        if name.is_some_and(|name| self.pins.is_pinned(name))
            && let Ok(digest) = digest.parse::<Digest>()
            && !self.pins.protects(&Key::manifest(&digest))
        {
            self.pins.add(&self.tree(&Key::manifest(&digest)));
        }
    }

    /// Walks over the records of tags that are not below `from`, in order. Blocking.
    pub fn walk_tags(&self, from: String, mut each: impl FnMut(TagRow<'_>) -> Step) {
        let _ = self.db.read(|db| {
            let table = db.begin_read()?.open_table(TAGS)?;
            let mut from = Some(from);
            while let Some(start) = from.take() {
                for entry in table.range(start.as_str()..)? {
                    let (key, value) = entry?;
                    let mut parts = key.value().split('\n');
                    let (Some(origin), Some(repository), Some(tag)) =
                        (parts.next(), parts.next(), parts.next())
                    else {
                        continue;
                    };
                    let row = TagRow {
                        origin,
                        repository,
                        tag,
                        record: tag_record(value.value()),
                    };
                    match each(row) {
                        Step::Next => {}
                        Step::Seek(to) => {
                            from = Some(to);
                            break;
                        }
                        Step::Stop => return Ok(()),
                    }
                }
            }
            Ok(())
        });
    }

    /// Up to `limit` objects after `after`, in the order of their keys. Blocking.
    pub fn objects_after(&self, after: Option<&Key>, limit: usize) -> Vec<(Key, u64)> {
        let listed = self.db.read(|db| {
            let table = db.begin_read()?.open_table(OBJECTS)?;
            let mut start = after.map(Key::to_bytes).unwrap_or_default();
            if after.is_some() {
                start.push(0);
            }
            let mut found = Vec::new();
            for entry in table.range(start.as_slice()..)?.take(limit) {
                let (key, value) = entry?;
                if let Some(key) = Key::from_bytes(key.value()) {
                    found.push((key, value.value().0));
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Up to `limit` objects that were last used before `before`, in microseconds since the epoch, and
    /// for which `wanted` holds; the one unused for longest first. Blocking.
    pub fn unused_since(
        &self,
        before: u64,
        limit: usize,
        wanted: impl Fn(&Key) -> bool,
    ) -> Vec<(Key, u64)> {
        let listed = self.db.read(|db| {
            let read = db.begin_read()?;
            let (lru, objects) = (read.open_table(LRU)?, read.open_table(OBJECTS)?);
            let mut found = Vec::new();
            for entry in lru.range(..(before, &[][..]))? {
                let (name, _) = entry?;
                let name = name.value().1;
                if let Some(key) = Key::from_bytes(name).filter(&wanted) {
                    let size = objects.get(name)?.map_or(0, |value| value.value().0);
                    found.push((key, size));
                }
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }

    /// Objects in numbers.
    pub fn counts(&self) -> Counts {
        let counted = self.db.read(|db| {
            let read = db.begin_read()?;
            let lru = read.open_table(LRU)?;
            // Of what may go: what is pinned stays.
            let mut oldest = None;
            for entry in lru.iter()?.take(super::MOST_LOOKED_AT) {
                let (name, _) = entry?;
                let (at, key) = name.value();
                if Key::from_bytes(key).is_some_and(|key| !self.pins.protects(&key)) {
                    oldest = Some(at / 1_000_000);
                    break;
                }
            }
            Ok(Counts {
                objects: read.open_table(OBJECTS)?.len()?,
                manifests: read.open_table(CHILDREN)?.len()?,
                oldest_use: oldest,
            })
        });
        counted.unwrap_or_default()
    }

    /// Whether an older version wrote this index, which knew nothing of what manifests refer to.
    pub fn wants_to_learn(&self) -> bool {
        let known = self.db.read(|db| super::db::meta(db, LEARNT));
        known.flatten().is_none()
    }

    /// Notes that what every manifest refers to is known from here on.
    pub async fn learnt(&self) -> Result<(), IndexError> {
        self.acked(Op::Learnt).await
    }

    /// Cached manifests, to learn from all of them what they refer to. Blocking.
    pub fn unlearnt(&self) -> Vec<Key> {
        let listed = self.db.read(|db| {
            let objects = db.begin_read()?.open_table(OBJECTS)?;
            let mut found = Vec::new();
            for entry in objects.range(&b"m"[..]..&b"n"[..])? {
                let (key, _) = entry?;
                found.extend(Key::from_bytes(key.value()));
            }
            Ok(found)
        });
        listed.unwrap_or_default()
    }
}

// === impl Child ===

impl Child {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let key = self.key.to_bytes();
        // A key has 66 bytes at most.
        out.push(key.len() as u8);
        out.extend(key);
        out.extend(self.size.to_be_bytes());
    }

    pub(super) fn read_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut found = Vec::new();
        while let Some((len, rest)) = bytes.split_first()
            && let Some((key, rest)) = rest.split_at_checked(usize::from(*len))
            && let Some((size, rest)) = rest.split_first_chunk::<8>()
        {
            if let Some(key) = Key::from_bytes(key) {
                let size = u64::from_be_bytes(*size);
                found.push(Self { key, size });
            }
            bytes = rest;
        }
        found
    }
}

/// The name of one content of a repository.
pub(super) fn in_repository(origin: &str, repository: &str, content: &[u8]) -> Vec<u8> {
    let mut name = format!("{origin}\n{repository}\n").into_bytes();
    name.extend(content);
    name
}

/// The end of the range of what begins with `prefix`, which ends in a line feed.
pub fn after(prefix: &str) -> String {
    format!("{}\u{b}", prefix.trim_end_matches('\n'))
}

pub(super) fn pinned_names(db: &Database) -> Result<BTreeSet<String>, Error> {
    let table = db.begin_read()?.open_table(PINS)?;
    let mut names = BTreeSet::new();
    for entry in table.iter()? {
        names.insert(entry?.0.value().to_owned());
    }
    Ok(names)
}

/// [`tag_prefix`] of a reference; a digest stands in a tag's place.
pub fn image_name(origin: &str, repository: &str, reference: &str) -> String {
    tag_prefix(origin, repository, reference)
}

fn children_in(db: &Database, manifest: &Key) -> Result<Option<Vec<Child>>, Error> {
    let table = db.begin_read()?.open_table(CHILDREN)?;
    let value = table.get(manifest.to_bytes().as_slice())?;
    Ok(value.map(|value| Child::read_all(value.value())))
}

fn children_of(children: &Children) -> Vec<Child> {
    let manifests = children.manifests.iter().map(|one| Child {
        key: Key::manifest(&one.digest),
        size: one.size,
    });
    let blobs = children.config.iter().chain(&children.layers);
    let blobs = blobs.filter(|one| !one.is_foreign()).map(|one| Child {
        key: Key::blob(&one.digest),
        size: one.size,
    });
    manifests.chain(blobs).collect()
}

/// Anybody may push one more.
const MOST_REFERRERS: usize = 1000;
/// An index of indexes could be made to be endless.
const MOST_OF_A_TREE: usize = 100_000;
