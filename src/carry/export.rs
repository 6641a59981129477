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
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::manifest::{Children, Descriptor, Platform};
use crate::wire::body::Body;

/// An image to send out.
#[derive(Clone, Debug)]
pub struct Root {
    /// The full name it is loaded under.
    pub name: String,
    pub digest: Digest,
}

/// What an image needs and the cache does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The image that needs it.
    pub image: String,
    pub digest: Digest,
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
    /// Plans the tar of `roots`, each with the platforms of `wanted` (none named: all). Answers what is
    /// missing where something is.
    pub async fn plan(
        cache: &Arc<Cache>,
        roots: &[Root],
        wanted: &[Platform],
    ) -> Result<Self, Vec<Missing>> {
        let mut walk = Walk {
            cache,
            wanted,
            seen: HashSet::new(),
            manifests: Vec::new(),
            blobs: Vec::new(),
            missing: Vec::new(),
        };
        let mut index = Vec::new();
        let mut docker = Vec::new();
        for root in roots {
            let Some(top) = walk.top(&root.name, &root.digest).await else {
                continue;
            };
            let entry = Entry {
                media_type: top.media_type.to_string(),
                digest: top.digest.to_string(),
                size: top.bytes.len() as u64,
                platform: None,
                annotations: Default::default(),
            };
            index.push(entry.named(&root.name));
            if let Some(leaf) = walk.add(&root.name, top).await {
                docker.push(in_dockers_words(&root.name, &leaf));
            }
        }
        if !walk.missing.is_empty() {
            return Err(walk.missing);
        }
        let images = index.len();
        let index = json(&Index::new(index));
        let etag = Digest::of(Algorithm::Sha256, &index).to_string();
        let mut files = vec![
            File::new("oci-layout", Content::Memory(Bytes::from_static(LAYOUT))),
            File::new("index.json", Content::Memory(index)),
            File::new("manifest.json", Content::Memory(json(&docker))),
        ];
        for manifest in walk.manifests {
            let path = path(&manifest.digest);
            files.push(File::new(&path, Content::Memory(manifest.bytes)));
        }
        for (digest, object) in walk.blobs {
            files.push(File::new(&path(&digest), Content::Disk(object)));
        }
        let total = files.iter().map(File::length).sum::<u64>() + END_OF_ARCHIVE;
        Ok(Self {
            files,
            total,
            etag: format!("\"{etag}\""),
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
    wanted: &'a [Platform],
    seen: HashSet<Digest>,
    manifests: Vec<Manifest>,
    blobs: Vec<(Digest, Object)>,
    missing: Vec<Missing>,
}

impl Walk<'_> {
    /// What stands for the image in the layout: of an index of which one platform is wanted, that
    /// platform's manifest, because a copy of an index that lacks a part is an error to many tools.
    async fn top(&mut self, image: &str, digest: &Digest) -> Option<Manifest> {
        let manifest = self.manifest(image, digest).await?;
        if self.wanted.is_empty() {
            return Some(manifest);
        }
        let children = Children::parse(&manifest.bytes).manifests;
        if children.is_empty() {
            return Some(manifest);
        }
        let mut fitting = children.iter().filter(|child| self.wants(child));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => self.manifest(image, &only.digest.clone()).await,
            _ => Some(manifest),
        }
    }

    /// Adds `top` and what is below it; answers the one image in it that a machine like this runs, if
    /// there is one.
    async fn add(&mut self, image: &str, top: Manifest) -> Option<Children> {
        let mut leaf = None;
        let mut stack = vec![(top, 0)];
        while let Some((manifest, depth)) = stack.pop() {
            let children = Children::parse(&manifest.bytes);
            if self.seen.insert(manifest.digest.clone()) {
                self.manifests.push(manifest);
                for blob in children.config.iter().chain(&children.layers) {
                    self.blob(image, blob).await;
                }
            }
            if leaf.is_none() && children.config.as_ref().is_some_and(is_runnable) {
                leaf = Some(children.clone());
            }
            if depth == DEEPEST {
                continue;
            }
            let fitting = children.manifests.into_iter();
            let fitting: Vec<Descriptor> = fitting.filter(|child| self.wants(child)).collect();
            for child in fitting.iter().rev() {
                if let Some(child) = self.manifest(image, &child.digest).await {
                    stack.push((child, depth + 1));
                }
            }
        }
        leaf
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
        if blob.media_type.contains("nondistributable") || blob.media_type.contains("foreign") {
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
        self.missing.push(Missing {
            image: image.to_owned(),
            digest: digest.clone(),
        });
    }

    fn wants(&self, child: &Descriptor) -> bool {
        if self.wanted.is_empty() {
            return true;
        }
        let Some(platform) = &child.platform else {
            return true;
        };
        self.wanted.iter().any(|wanted| {
            wanted.os == platform.os
                && wanted.architecture == platform.architecture
                && (wanted.variant.is_none() || wanted.variant == platform.variant)
        })
    }
}

fn is_runnable(config: &Descriptor) -> bool {
    config.media_type.contains("image.config") || config.media_type.contains("container.image")
}

fn in_dockers_words(name: &str, image: &Children) -> DockerImage {
    let config = image.config.iter().map(|config| path(&config.digest));
    DockerImage {
        config: config.collect(),
        repo_tags: (!name.contains('@')).then(|| vec![name.to_owned()]),
        layers: image
            .layers
            .iter()
            .map(|layer| path(&layer.digest))
            .collect(),
    }
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
