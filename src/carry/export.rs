//! Cached images → one tar, without a copy on the disk.

use std::sync::Arc;

use bytes::Bytes;

use super::layout::{DockerImage, Entry, Index, LAYOUT};
use super::tar::{self, Content, File};
use super::walk::Walk;
use crate::cache::Cache;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Children, Platform};
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

// === impl Export ===

impl Export {
    /// Plans the tar of what `wants` says of `roots`. Answers what is missing where something is.
    pub async fn plan(
        cache: &Arc<Cache>,
        roots: &[Root],
        wants: &Wants,
    ) -> Result<Self, Vec<Missing>> {
        let mut walk = Walk::new(cache, wants);
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
        let etag = tar::etag(&files);
        let total = tar::total(&files);
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
        tar::body(self.files, start, end)
    }
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

fn json(value: &impl serde::Serialize) -> Bytes {
    // Plain structs of strings and numbers always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn path(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("blobs/{}", name.replacen(':', "/", 1))
}
