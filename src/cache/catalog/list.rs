//! Lists: read in ranges, a page at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{Filter, ImageRow, Page, RegistryRow, RepositoryRow, Stats, registry_of};
use crate::cache::Cache;
use crate::cache::index::Index;
use crate::cache::index::images::{Step, TagRow, after, image_name};
use crate::oci::digest::Digest;
use crate::store::{Key, Store};

impl Cache {
    /// A page of images, by origin, repository and tag.
    pub async fn images(&self, filter: &Filter) -> Page<ImageRow> {
        let (filter, store) = (filter.clone(), Arc::clone(&self.store));
        let rows = self
            .read(move |index| {
                let mut page = images(index, &filter);
                for row in &mut page.rows {
                    complete(index, &store, row);
                }
                page
            })
            .await;
        rows.unwrap_or(Page {
            rows: Vec::new(),
            next: None,
        })
    }

    /// A page of repositories, by origin and name.
    pub async fn repositories(&self, filter: &Filter) -> Page<RepositoryRow> {
        let filter = filter.clone();
        let rows = self.read(move |index| repositories(index, &filter)).await;
        rows.unwrap_or(Page {
            rows: Vec::new(),
            next: None,
        })
    }

    /// Every registry that something is known of. Looks at every tag.
    pub async fn registries(&self) -> Vec<RegistryRow> {
        self.read(registries).await.unwrap_or_default()
    }

    /// The origins of images. Looks at one tag of each.
    pub async fn origins(&self) -> Vec<String> {
        self.read(origins).await.unwrap_or_default()
    }

    /// The cache in numbers. Looks at every tag; blobs are counted, not looked at.
    pub async fn stats(&self) -> Stats {
        let _ = self.index.flush().await;
        let registries = self.registries().await;
        let counts = self.read(|index| index.counts()).await.unwrap_or_default();
        Stats {
            objects: counts.objects,
            blobs: counts.objects.saturating_sub(counts.manifests),
            manifests: counts.manifests,
            bytes: self.space.used(),
            max_bytes: self.space.bounds().max_size,
            tags: registries.iter().map(|row| row.tags).sum(),
            repositories: registries.iter().map(|row| row.repositories).sum(),
            pinned: self.index.pins().count() as u64,
            oldest_use: counts.oldest_use,
        }
    }

    /// Looks something up that takes more than a moment.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Index) -> T + Send + 'static,
    ) -> Option<T> {
        let index = Arc::clone(&self.index);
        let looking = tokio::task::spawn_blocking(move || look(&index));
        looking.await.ok()
    }
}

/// A text that is looked for, and the name that is looked at: one for all of them.
struct Search {
    text: Option<String>,
    name: String,
}

/// What sorts rows, and a page's cursor.
type Place = (String, String, String, String);

fn images(index: &Index, filter: &Filter) -> Page<ImageRow> {
    let limit = filter.rows();
    let begin = filter.begin();
    let mut found: BTreeMap<Place, ImageRow> = BTreeMap::new();
    let mut last: Option<(String, String, String)> = None;
    let mut search = Search::new(filter);
    index.walk_tags(filter.start(&begin), |row| {
        if let Some(step) = filter.passes_over(row.origin, row.repository) {
            return step;
        }
        if !search.finds(row.origin, row.repository, row.tag) {
            return Step::Next;
        }
        let at = (
            row.origin.to_owned(),
            row.repository.to_owned(),
            row.tag.to_owned(),
        );
        // All that is known of one tag is on one page's way.
        if last.as_ref() != Some(&at) && found.len() > limit {
            return Step::Stop;
        }
        let place = (
            at.0.clone(),
            at.1.clone(),
            at.2.clone(),
            row.record.digest.clone(),
        );
        last = Some(at);
        if begin.as_ref().is_none_or(|begin| place > *begin) {
            match found.get_mut(&place) {
                Some(known) => known.confirmed = known.confirmed.max(row.record.confirmed),
                None => drop(found.insert(place, row_of(&row))),
            }
        }
        Step::Next
    });
    for (place, row) in pinned_by_digest(index, filter) {
        if begin.as_ref().is_none_or(|begin| place > *begin) {
            found.insert(place, row);
        }
    }
    let more = found.len() > limit;
    let mut rows: Vec<ImageRow> = Vec::new();
    let mut next = None;
    for (place, row) in found.into_iter().take(limit) {
        next = Some(cursor(&place));
        rows.push(row);
    }
    Page {
        rows,
        next: next.filter(|_| more),
    }
}

fn row_of(row: &TagRow<'_>) -> ImageRow {
    ImageRow {
        origin: row.origin.to_owned(),
        registry: registry_of(row.origin).to_owned(),
        repository: row.repository.to_owned(),
        tag: Some(row.tag.to_owned()),
        digest: row.record.digest.clone(),
        media_type: row.record.media_type.clone(),
        size: row.record.size,
        total_size: 0,
        cached_size: 0,
        cached: false,
        since: None,
        confirmed: row.record.confirmed,
        pinned: false,
    }
}

/// No tag leads to them.
fn pinned_by_digest(index: &Index, filter: &Filter) -> Vec<(Place, ImageRow)> {
    let mut found = Vec::new();
    let mut search = Search::new(filter);
    for name in index.pins().names() {
        let mut parts = name.split('\n');
        let (Some(origin), Some(repository), Some(digest)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if !digest.contains(':')
            || filter.passes_over(origin, repository).is_some()
            || !search.finds(origin, repository, digest)
        {
            continue;
        }
        let place = (
            origin.to_owned(),
            repository.to_owned(),
            digest.to_owned(),
            digest.to_owned(),
        );
        let key = digest
            .parse::<Digest>()
            .map(|digest| Key::manifest(&digest));
        let known = key.ok().and_then(|key| index.object(&key));
        let row = ImageRow {
            origin: origin.to_owned(),
            registry: registry_of(origin).to_owned(),
            repository: repository.to_owned(),
            tag: None,
            digest: digest.to_owned(),
            media_type: known
                .as_ref()
                .map(|it| it.media_type.clone())
                .unwrap_or_default(),
            size: known.map_or(0, |it| it.size),
            total_size: 0,
            cached_size: 0,
            cached: false,
            since: None,
            confirmed: 0,
            pinned: true,
        };
        found.push((place, row));
    }
    found
}

/// What is looked up only for the rows of a page.
fn complete(index: &Index, store: &Store, row: &mut ImageRow) {
    let reference = row.tag.as_deref().unwrap_or(&row.digest);
    let name = image_name(&row.origin, &row.repository, reference);
    row.pinned = index.pins().is_pinned(&name);
    if let Ok(digest) = row.digest.parse::<Digest>() {
        let key = Key::manifest(&digest);
        row.cached = index.object(&key).is_some();
        if row.cached {
            row.since = since(store, &key);
        }
        (row.total_size, row.cached_size) = index.weigh(&key);
    }
}

fn repositories(index: &Index, filter: &Filter) -> Page<RepositoryRow> {
    let limit = filter.rows();
    let begin = filter.begin();
    let begins = |at: &(String, String)| {
        begin
            .as_ref()
            .is_none_or(|(origin, repository, ..)| *at > (origin.clone(), repository.clone()))
    };
    let mut found: BTreeMap<(String, String), RepositoryRow> = BTreeMap::new();
    let mut last_tag = String::new();
    let mut search = Search::new(filter);
    let add = |found: &mut BTreeMap<_, RepositoryRow>, at: &(String, String)| {
        found.entry(at.clone()).or_insert_with(|| RepositoryRow {
            origin: at.0.clone(),
            registry: registry_of(&at.0).to_owned(),
            repository: at.1.clone(),
            tags: 0,
            pinned: 0,
        });
    };
    index.walk_tags(filter.start(&begin), |row| {
        if let Some(step) = filter.passes_over(row.origin, row.repository) {
            return step;
        }
        let at = (row.origin.to_owned(), row.repository.to_owned());
        if !begins(&at) || !search.finds(row.origin, row.repository, "") {
            return Step::Seek(after(&format!("{}\n{}", row.origin, row.repository)));
        }
        if !found.contains_key(&at) {
            if found.len() > limit {
                return Step::Stop;
            }
            add(&mut found, &at);
            last_tag.clear();
        }
        if last_tag != row.tag
            && let Some(known) = found.get_mut(&at)
        {
            known.tags += 1;
            row.tag.clone_into(&mut last_tag);
        }
        Step::Next
    });
    for name in index.pins().names() {
        let mut parts = name.split('\n');
        let (Some(origin), Some(repository)) = (parts.next(), parts.next()) else {
            continue;
        };
        let at = (origin.to_owned(), repository.to_owned());
        if !begins(&at)
            || filter.passes_over(origin, repository).is_some()
            || !search.finds(origin, repository, "")
        {
            continue;
        }
        add(&mut found, &at);
        if let Some(known) = found.get_mut(&at) {
            known.pinned += 1;
        }
    }
    let more = found.len() > limit;
    let rows: Vec<RepositoryRow> = found.into_values().take(limit).collect();
    let last = rows.last().filter(|_| more);
    let next = last.map(|row| {
        cursor(&(
            row.origin.clone(),
            row.repository.clone(),
            String::new(),
            String::new(),
        ))
    });
    Page { rows, next }
}

/// Seconds since the epoch when an object came.
pub(super) fn since(store: &Store, key: &Key) -> Option<u64> {
    let since = store.since(key).ok()??;
    let since = since.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

fn origins(index: &Index) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    index.walk_tags(String::new(), |row| {
        found.push(row.origin.to_owned());
        Step::Seek(after(row.origin))
    });
    found
}

fn registries(index: &Index) -> Vec<RegistryRow> {
    let mut rows: Vec<RegistryRow> = Vec::new();
    let mut last = (String::new(), String::new());
    index.walk_tags(String::new(), |row| {
        if rows.last().is_none_or(|known| known.origin != row.origin) {
            rows.push(RegistryRow {
                origin: row.origin.to_owned(),
                registry: registry_of(row.origin).to_owned(),
                repositories: 0,
                tags: 0,
            });
            last = (String::new(), String::new());
        }
        if let Some(known) = rows.last_mut() {
            if last.0 != row.repository {
                known.repositories += 1;
                last = (row.repository.to_owned(), String::new());
            }
            if last.1 != row.tag {
                known.tags += 1;
                row.tag.clone_into(&mut last.1);
            }
        }
        Step::Next
    });
    rows
}

// === impl Filter ===

impl Filter {
    fn rows(&self) -> usize {
        match self.limit {
            0 => Self::USUAL,
            some => some.min(Self::MOST),
        }
    }

    /// The last row of the page before.
    fn begin(&self) -> Option<Place> {
        let mut parts = self.after.as_deref()?.split('\n').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Some((next(), next(), next(), next()))
    }

    /// Where in the index the page begins.
    fn start(&self, begin: &Option<Place>) -> String {
        begin
            .as_ref()
            .map_or_else(String::new, |(origin, repository, tag, _)| {
                format!("{origin}\n{repository}\n{tag}")
            })
    }

    /// Where to go on from a repository that is not asked for.
    fn passes_over(&self, origin: &str, repository: &str) -> Option<Step> {
        let other = |wanted: &String| wanted != origin && wanted != registry_of(origin);
        if self.registry.as_ref().is_some_and(other) {
            return Some(Step::Seek(after(origin)));
        }
        match self.repository.as_deref() {
            Some(wanted) if wanted < repository => Some(Step::Seek(after(origin))),
            Some(wanted) if wanted > repository => {
                Some(Step::Seek(format!("{origin}\n{wanted}\n")))
            }
            _ => None,
        }
    }
}

// === impl Search ===

impl Search {
    fn new(filter: &Filter) -> Self {
        Self {
            text: filter.text.as_ref().map(|text| text.to_lowercase()),
            name: String::new(),
        }
    }

    /// Whether the text is somewhere in `registry/repository:tag`. Letters beyond ASCII are in no name.
    fn finds(&mut self, origin: &str, repository: &str, tag: &str) -> bool {
        let Some(text) = &self.text else {
            return true;
        };
        self.name.clear();
        for part in [registry_of(origin), "/", repository, ":", tag] {
            self.name.push_str(part);
        }
        self.name.make_ascii_lowercase();
        self.name.contains(text.as_str())
    }
}

fn cursor((origin, repository, tag, digest): &Place) -> String {
    format!("{origin}\n{repository}\n{tag}\n{digest}")
}
