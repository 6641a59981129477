//! Repositories and the images in them.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::{
    content::{Blob, noise, sha256},
    upstream::Shared,
};

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A repository of a registry behind an upstream.
#[derive(Clone)]
pub struct Repo {
    shared: Arc<Shared>,
    pub host: String,
    pub name: String,
}

/// A manifest as it is stored.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
}

/// An image and where it is.
#[derive(Clone)]
pub struct Image {
    pub repo: Repo,
    pub tag: String,
    pub manifest: Manifest,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

// === impl Repo ===

impl Repo {
    pub(super) fn new(shared: Arc<Shared>, host: &str, name: &str) -> Self {
        Self {
            shared,
            host: host.to_owned(),
            name: name.to_owned(),
        }
    }

    /// `https://HOST/v2/NAME/manifests/REFERENCE`
    pub fn manifest_url(&self, reference: &str) -> String {
        format!(
            "https://{}/v2/{}/manifests/{reference}",
            self.host, self.name
        )
    }

    /// `https://HOST/v2/NAME/blobs/DIGEST`
    pub fn blob_url(&self, digest: &str) -> String {
        format!("https://{}/v2/{}/blobs/{digest}", self.host, self.name)
    }

    /// `https://HOST/v2/NAME/REST`
    pub fn url(&self, rest: &str) -> String {
        format!("https://{}/v2/{}/{rest}", self.host, self.name)
    }

    /// Stores a blob.
    pub fn put(&self, blob: &Blob) -> &Self {
        self.put_as(&blob.digest, blob.bytes.clone())
    }

    /// Stores bytes under a digest, be it theirs or not.
    pub fn put_as(&self, digest: &str, bytes: Bytes) -> &Self {
        let mut world = self.shared.world();
        let repo = world.repo(&self.host, &self.name);
        repo.blobs.insert(digest.to_owned(), bytes);
        drop(world);
        self
    }

    /// Makes a blob of `len` bytes and stores it.
    pub fn blob(&self, seed: u64, len: usize) -> Blob {
        let blob = Blob::noise(seed, len);
        self.put(&blob);
        blob
    }

    /// Stores a manifest under its digest.
    pub fn put_manifest(&self, manifest: &Manifest) -> &Self {
        let mut world = self.shared.world();
        let repo = world.repo(&self.host, &self.name);
        let stored = (manifest.media_type.clone(), manifest.bytes.clone());
        repo.manifests.insert(manifest.digest.clone(), stored);
        drop(world);
        self
    }

    /// Points a tag at these manifests: a request gets the first whose type it accepts.
    pub fn tag(&self, tag: &str, manifests: &[&Manifest]) -> &Self {
        for manifest in manifests {
            self.put_manifest(manifest);
        }
        let digests = manifests.iter().map(|one| one.digest.clone()).collect();
        let mut world = self.shared.world();
        let repo = world.repo(&self.host, &self.name);
        repo.tags.insert(tag.to_owned(), digests);
        drop(world);
        self
    }

    /// Takes a tag away.
    pub fn untag(&self, tag: &str) {
        let mut world = self.shared.world();
        world.repo(&self.host, &self.name).tags.remove(tag);
    }

    /// Makes an OCI image with a config and one layer for each of `sizes`, and tags it. The same
    /// `seed` makes the same image.
    pub fn image(&self, tag: &str, seed: u64, sizes: &[usize]) -> Image {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] }, "seed": seed,
        });
        let config = Blob::of(config.to_string());
        let numbered = (1u64..).zip(sizes);
        let layers = numbered.map(|(i, len)| Blob::noise(seed * 1000 + i, *len));
        let layers: Vec<Blob> = layers.collect();
        for blob in layers.iter().chain([&config]) {
            self.put(blob);
        }
        let manifest = Manifest::image(OCI_MANIFEST, &config, &layers);
        self.tag(tag, &[&manifest]);
        Image {
            repo: self.clone(),
            tag: tag.to_owned(),
            manifest,
            config,
            layers,
        }
    }
}

// === impl Manifest ===

impl Manifest {
    /// These bytes under their sha256.
    pub fn of(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            media_type: media_type.to_owned(),
            bytes,
        }
    }

    /// The manifest of an image.
    pub fn image(media_type: &str, config: &Blob, layers: &[Blob]) -> Self {
        let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.len() });
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> = layers.iter().map(|blob| descriptor(layer, blob)).collect();
        let body = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": layers,
        });
        Self::of(media_type, body.to_string())
    }

    /// An index of images, the first for amd64, the next for arm64.
    pub fn index(media_type: &str, manifests: &[&Manifest]) -> Self {
        let architectures = ["amd64", "arm64", "riscv64"];
        let manifests = manifests
            .iter()
            .zip(architectures)
            .map(|(one, architecture)| {
                json!({
                    "mediaType": one.media_type, "digest": one.digest, "size": one.bytes.len(),
                    "platform": { "os": "linux", "architecture": architecture },
                })
            });
        let manifests: Vec<_> = manifests.collect();
        let body = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        Self::of(media_type, body.to_string())
    }

    /// A signature, or another thing of one blob that is about `subject`.
    pub fn about(subject: &Self, artifact_type: &str, blob: &Blob) -> Self {
        let empty = Blob::of("{}");
        let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.len() });
        let body = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": descriptor("application/vnd.oci.empty.v1+json", &empty),
            "layers": [descriptor("application/octet-stream", blob)],
            "subject": {
                "mediaType": subject.media_type, "digest": subject.digest, "size": subject.bytes.len(),
            },
        });
        Self::of(OCI_MANIFEST, body.to_string())
    }

    /// A manifest of `len` bytes that is nobody's image.
    pub fn padded(seed: u64, len: usize) -> Self {
        let padding = super::content::hex(&noise(seed, len / 2));
        let config = Blob::of("{}");
        let plain = Self::image(OCI_MANIFEST, &config, &[]);
        let mut body: serde_json::Value =
            serde_json::from_slice(&plain.bytes).expect("written above");
        body["annotations"] = json!({ "padding": padding });
        Self::of(OCI_MANIFEST, body.to_string())
    }
}

// === impl Image ===

impl Image {
    /// The manifest's URL by tag.
    pub fn by_tag(&self) -> String {
        self.repo.manifest_url(&self.tag)
    }

    /// The manifest's URL by digest.
    pub fn by_digest(&self) -> String {
        self.repo.manifest_url(&self.manifest.digest)
    }

    /// The config and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}
