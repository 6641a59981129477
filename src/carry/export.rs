//! Cached images → one tar, without a copy on the disk.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_tar::Header;

use super::layout::{DockerImage, Entry, Index, LAYOUT};
use crate::cache::reader::Reader;
use crate::cache::{Cache, Manifest, Object};
use crate::oci::digest::{Algorithm, Digest, Hasher};
use crate::oci::manifest::{Children, Descriptor, Platform};
use crate::wire::body::Body;

/// An image to send out.
#[derive(Clone, Debug)]
pub struct Root {
    /// The full name it is loaded under.
    pub name: String,
    pub digest: Digest,
}

/// What of an image is sent out.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// None named: all.
    pub platforms: Vec<Platform>,
    /// What is about the image too, as far as it is cached: signatures, bills of material.
    pub referrers: bool,
}

/// What of an image is wanted and not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("{digest} of {image} is not cached")]
    Content { image: String, digest: Digest },
    #[error("{image} has no image for the platforms that are wanted")]
    Platform { image: String },
}

/// A tar whose every byte is known by its place. Holding one keeps its blobs from being evicted.
#[derive(Debug)]
pub struct Export {
    files: Vec<File>,
    total: u64,
    etag: String,
    images: usize,
}

#[derive(Debug)]
struct File {
    header: Bytes,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    Disk(Object),
}

/// A part of the tar, and where it is to be read.
struct Part {
    content: Content,
    start: u64,
    end: u64,
}

// === impl Export ===

impl Export {
    /// Plans the tar of what `wants` says of `roots`. Answers what is missing where something is.
    pub async fn plan(
        cache: &Arc<Cache>,
        roots: &[Root],
        wants: &Wants,
    ) -> Result<Self, Vec<Missing>> {
        let mut walk = Walk {
            cache,
            wants,
            seen: HashSet::new(),
            about: Vec::new(),
            manifests: Vec::new(),
            blobs: Vec::new(),
            missing: Vec::new(),
        };
        let mut index = Vec::new();
        let mut docker: Vec<(Digest, DockerImage)> = Vec::new();
        for root in roots {
            let Some(top) = walk.top(&root.name, &root.digest).await else {
                continue;
            };
            let entry = Entry::of(&top).named(&root.name);
            // One that is asked for twice is there once, as tools that find two refuse both.
            if index.iter().any(|known: &Entry| known.is(&entry)) {
                continue;
            }
            index.push(entry);
            let digest = top.digest.clone();
            if let Some((_, known)) = docker.iter_mut().find(|(known, _)| *known == digest) {
                known.repo_tags.extend(docker_tag(&root.name));
            } else if let Some(leaf) = walk.add(&root.name, top).await {
                docker.push((digest, in_dockers_words(&root.name, &leaf)));
            }
        }
        let docker: Vec<DockerImage> = docker.into_iter().map(|(_, image)| image).collect();
        let images = index.len();
        // No tool loads them; a gateway knows by their subjects where they belong.
        index.extend(walk.about.iter().map(Entry::of));
        if !walk.missing.is_empty() {
            return Err(walk.missing);
        }
        let mut files = vec![
            File::new("oci-layout", Content::Memory(Bytes::from_static(LAYOUT))),
            File::new("index.json", Content::Memory(json(&Index::new(index)))),
            File::new("manifest.json", Content::Memory(json(&docker))),
        ];
        for manifest in walk.manifests {
            let path = path(&manifest.digest);
            files.push(File::new(&path, Content::Memory(manifest.bytes)));
        }
        for (digest, object) in walk.blobs {
            files.push(File::new(&path(&digest), Content::Disk(object)));
        }
        let etag = etag(&files);
        let total = files.iter().map(File::length).sum::<u64>() + END_OF_ARCHIVE;
        Ok(Self {
            files,
            total,
            etag,
            images,
        })
    }

    /// Bytes of the whole tar.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Names exactly these bytes (RFC 9110 section 8.8.3).
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// How many images it has.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The tar's bytes `start..end` (exclusive).
    pub fn into_body(self, start: u64, end: u64) -> Body {
        let mut parts = Vec::new();
        let mut at = 0;
        for file in self.files {
            let padding = Bytes::from(vec![0; file.padding()]);
            let pieces = [
                Content::Memory(file.header),
                file.content,
                Content::Memory(padding),
            ];
            for content in pieces {
                at = Part::cut(&mut parts, content, at, start, end);
            }
        }
        let trailer = Content::Memory(Bytes::from_static(&[0; END_OF_ARCHIVE as usize]));
        Part::cut(&mut parts, trailer, at, start, end);
        let chunks = stream::iter(parts)
            .flat_map(|part| part.into_body().into_data_stream())
            .map(|chunk| chunk.map(Frame::data));
        StreamBody::new(chunks).boxed_unsync()
    }
}

// === impl File ===

impl File {
    fn new(path: &str, content: Content) -> Self {
        let mut header = Header::new_ustar();
        // Every path here is short and plain: `blobs/sha512/<128 digits>` is the longest, and a header
        // splits that at a slash.
        let _ = header.set_path(path);
        header.set_size(content.length());
        header.set_mode(0o644);
        header.set_entry_type(tokio_tar::EntryType::Regular);
        header.set_cksum();
        Self {
            header: Bytes::copy_from_slice(header.as_bytes()),
            content,
        }
    }

    fn length(&self) -> u64 {
        self.header.len() as u64 + self.content.length() + self.padding() as u64
    }

    fn padding(&self) -> usize {
        (BLOCK - self.content.length() % BLOCK) as usize % BLOCK as usize
    }
}

// === impl Content ===

impl Content {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(object) => object.size(),
        }
    }
}

// === impl Part ===

impl Part {
    /// Adds what of `content`, which begins at `at`, lies within `start..end`; answers where it ends.
    fn cut(parts: &mut Vec<Self>, content: Content, at: u64, start: u64, end: u64) -> u64 {
        let length = content.length();
        let from = start.saturating_sub(at).min(length);
        let to = end.saturating_sub(at).min(length);
        if from < to {
            parts.push(Self {
                content,
                start: from,
                end: to,
            });
        }
        at + length
    }

    fn into_body(self) -> Body {
        match self.content {
            Content::Disk(object) => Reader::complete(object, self.start, self.end).into_body(),
            Content::Memory(bytes) => {
                let slice = bytes.slice(self.start as usize..self.end as usize);
                crate::wire::body::full(slice)
            }
        }
    }
}

// === impl Walk ===

/// Gathers what images are made of, each thing once.
struct Walk<'a> {
    cache: &'a Arc<Cache>,
    wants: &'a Wants,
    seen: HashSet<Digest>,
    manifests: Vec<Manifest>,
    blobs: Vec<(Digest, Object)>,
    /// What refers to what was gathered.
    about: Vec<Manifest>,
    missing: Vec<Missing>,
}

impl Walk<'_> {
    /// What stands for the image in the layout: of an index of which one platform is wanted, that
    /// platform's manifest, because a copy of an index that lacks a part is an error to many tools.
    async fn top(&mut self, image: &str, digest: &Digest) -> Option<Manifest> {
        let manifest = self.manifest(image, digest).await?;
        if self.wants.platforms.is_empty() {
            return Some(manifest);
        }
        let children = Children::parse(&manifest.bytes).manifests;
        if children.is_empty() {
            return Some(manifest);
        }
        // What has no platform of its own belongs to one that has.
        let fits = |child: &&Descriptor| child.platform.is_some() && self.wanted(child);
        let mut fitting = children.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => self.manifest(image, &only.digest.clone()).await,
            (None, _) => {
                self.missing.push(Missing::Platform {
                    image: image.to_owned(),
                });
                None
            }
            _ => Some(manifest),
        }
    }

    /// Adds `top` and what is below it; answers the image in it that Docker's own list names, which has
    /// one for each name: the one for machines like this, else the first.
    async fn add(&mut self, image: &str, top: Manifest) -> Option<Children> {
        let mut leaf: Option<(bool, Children)> = None;
        let mut stack = vec![(top, 0, false)];
        while let Some((manifest, depth, native)) = stack.pop() {
            let children = Children::parse(&manifest.bytes);
            if children.config.as_ref().is_some_and(is_runnable)
                && leaf.as_ref().is_none_or(|(known, _)| native && !known)
            {
                leaf = Some((native, children.clone()));
            }
            if !self.seen.insert(manifest.digest.clone()) {
                continue;
            }
            for blob in children.config.iter().chain(&children.layers) {
                self.blob(image, blob).await;
            }
            if self.wants.referrers {
                self.referrers(image, &manifest.digest).await;
            }
            self.manifests.push(manifest);
            if depth == DEEPEST {
                continue;
            }
            let fitting = children.manifests.into_iter();
            let fitting: Vec<Descriptor> = fitting.filter(|child| self.wanted(child)).collect();
            for child in fitting.iter().rev() {
                if let Some(manifest) = self.manifest(image, &child.digest).await {
                    stack.push((manifest, depth + 1, is_native(child)));
                }
            }
        }
        leaf.map(|(_, children)| children)
    }

    /// Adds what is about a manifest, as far as it is whole here.
    async fn referrers(&mut self, image: &str, manifest: &Digest) {
        let mut ahead = vec![manifest.clone()];
        while let Some(subject) = ahead.pop() {
            for digest in self.cache.referrers(&subject).await {
                if self.seen.contains(&digest) {
                    continue;
                }
                let Some(about) = self.cache.manifest(&digest).await else {
                    continue;
                };
                let children = Children::parse(&about.bytes);
                let mut whole = children.manifests.is_empty();
                for blob in children.config.iter().chain(&children.layers) {
                    whole &= blob.is_foreign() || self.cache.blob(&blob.digest).await.is_some();
                }
                if !whole {
                    continue;
                }
                for blob in children.config.iter().chain(&children.layers) {
                    self.blob(image, blob).await;
                }
                self.seen.insert(digest.clone());
                self.manifests.push(about.clone());
                self.about.push(about);
                ahead.push(digest);
            }
        }
    }

    async fn manifest(&mut self, image: &str, digest: &Digest) -> Option<Manifest> {
        let found = self.cache.manifest(digest).await;
        if found.is_none() {
            self.misses(image, digest);
        }
        found
    }

    async fn blob(&mut self, image: &str, blob: &Descriptor) {
        // A layer that may not be handed on is nowhere but at its maker's (image specification,
        // "Non-Distributable Layers").
        if blob.is_foreign() {
            return;
        }
        if !self.seen.insert(blob.digest.clone()) {
            return;
        }
        match self.cache.blob(&blob.digest).await {
            Some(object) => self.blobs.push((blob.digest.clone(), object)),
            None => self.misses(image, &blob.digest),
        }
    }

    fn misses(&mut self, image: &str, digest: &Digest) {
        self.missing.push(Missing::Content {
            image: image.to_owned(),
            digest: digest.clone(),
        });
    }

    fn wanted(&self, child: &Descriptor) -> bool {
        let wanted = &self.wants.platforms;
        let platform = child.platform.as_ref();
        wanted.is_empty()
            || platform.is_none_or(|offered| wanted.iter().any(|one| one.is_met_by(offered)))
    }
}

/// Whether it is for machines like this one.
fn is_native(child: &Descriptor) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = child.platform.as_ref();
    platform.is_some_and(|one| one.os == "linux" && one.architecture == architecture)
}

/// Names the bytes of the whole tar: every header has its file's path and length, a blob's path has its
/// digest, and what else there is counts itself.
fn etag(files: &[File]) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for file in files {
        hasher.update(&file.header);
        if let Content::Memory(bytes) = &file.content {
            hasher.update(bytes);
        }
    }
    format!("\"{}\"", &hasher.finish().hex()[..ETAG])
}

fn is_runnable(config: &Descriptor) -> bool {
    config.media_type.contains("image.config") || config.media_type.contains("container.image")
}

fn in_dockers_words(name: &str, image: &Children) -> DockerImage {
    let config = image.config.iter().map(|config| path(&config.digest));
    DockerImage {
        config: config.collect(),
        repo_tags: docker_tag(name).into_iter().collect(),
        layers: image
            .layers
            .iter()
            .map(|layer| path(&layer.digest))
            .collect(),
    }
}

/// Docker tags an image with a name and a tag alone.
fn docker_tag(name: &str) -> Option<String> {
    (!name.contains('@')).then(|| name.to_owned())
}

fn path(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("blobs/{}", name.replacen(':', "/", 1))
}

fn json(value: &impl serde::Serialize) -> Bytes {
    // Plain structs of strings and numbers always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default().into()
}

const BLOCK: u64 = 512;
const END_OF_ARCHIVE: u64 = 1024;
const DEEPEST: usize = 4;
/// Hexadecimal digits of an entity tag: 128 bits of the hash.
const ETAG: usize = 32;
