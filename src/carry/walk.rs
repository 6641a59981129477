//! What images are made of: their manifests, configurations, layers, and what is about them.

use std::collections::HashSet;
use std::sync::Arc;

use super::export::{Missing, Wants};
use crate::cache::{Cache, Manifest, Object};
use crate::oci::digest::Digest;
use crate::oci::manifest::{Children, Descriptor};

/// Gathers what images are made of, each thing once.
pub(super) struct Walk<'a> {
    pub(super) cache: &'a Arc<Cache>,
    pub(super) wants: &'a Wants,
    seen: HashSet<Digest>,
    pub(super) manifests: Vec<Manifest>,
    pub(super) blobs: Vec<(Digest, Object)>,
    /// What refers to what was gathered.
    pub(super) about: Vec<Manifest>,
    pub(super) missing: Vec<Missing>,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    pub(super) fn new(cache: &'a Arc<Cache>, wants: &'a Wants) -> Self {
        Self {
            cache,
            wants,
            seen: HashSet::new(),
            about: Vec::new(),
            manifests: Vec::new(),
            blobs: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// What stands for the image in the layout: of an index of which one platform is wanted, that
    /// platform's manifest, because a copy of an index that lacks a part is an error to many tools.
    pub(super) async fn top(&mut self, image: &str, digest: &Digest) -> Option<Manifest> {
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
    pub(super) async fn add(&mut self, image: &str, top: Manifest) -> Option<Children> {
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

// === helpers ===

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

fn is_runnable(config: &Descriptor) -> bool {
    config.media_type.contains("image.config") || config.media_type.contains("container.image")
}

/// Indexes within indexes.
const DEEPEST: usize = 4;
