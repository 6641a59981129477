//! The documents of an image layout: what is written, and what is read of others'.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::cache::Manifest;
use crate::oci::manifest::OCI_INDEX;

/// `index.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    pub manifests: Vec<Entry>,
}

/// One image of a layout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One image in Docker's own words, `manifest.json`: for a `docker load` that knows no layouts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    pub config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub repo_tags: Vec<String>,
    pub layers: Vec<String>,
}

// === impl Index ===

impl Index {
    pub fn new(manifests: Vec<Entry>) -> Self {
        Self {
            schema_version: 2,
            media_type: OCI_INDEX.to_owned(),
            manifests,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// A manifest without a name.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            media_type: manifest.media_type.to_string(),
            digest: manifest.digest.to_string(),
            size: manifest.bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }

    /// Whether it is the same image under the same name.
    pub fn is(&self, other: &Self) -> bool {
        self.digest == other.digest && self.name() == other.name()
    }

    /// Gives it the name under which it is loaded, in the two places where tools look.
    pub fn named(mut self, name: &str) -> Self {
        for key in [CONTAINERD_NAME, REF_NAME] {
            self.annotations.insert(key.to_owned(), name.to_owned());
        }
        self
    }

    /// The full name it carries: one with a repository. A bare tag, as some tools write, is none.
    pub fn name(&self) -> Option<&str> {
        let named = |key: &str| self.annotations.get(key).map(String::as_str);
        [named(CONTAINERD_NAME), named(REF_NAME)]
            .into_iter()
            .flatten()
            .find(|name| name.contains('/'))
    }
}

/// Docker writes `null` for an image without a name.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `oci-layout`, always the same.
pub const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
