//! What an image's configuration says of it (OCI image specification, "Image Configuration").

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use crate::cache::Cache;
use crate::oci::digest::Digest;
use crate::store::{Key, Store};

/// What a person wants to know of an image. Environment variables are left out: people put passwords
/// into them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// When it was built, as it is written (RFC 3339).
    pub created: Option<String>,
    /// `linux/arm64/v8`.
    pub platform: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
    pub working_directory: String,
    /// `8080/tcp`, …
    pub ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// What made each layer, lowest first.
    pub made_by: Vec<String>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<Run>,
    #[serde(default)]
    history: Option<Vec<Step>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: Option<bool>,
}

// === impl Cache ===

impl Cache {
    /// What the configuration of an image says, where it is here and is one.
    pub async fn about(&self, config: &Digest) -> Option<About> {
        let (store, config) = (self.store.clone(), config.clone());
        let reading = self.read(move |_| About::read(&store, &config));
        reading.await.flatten()
    }
}

// === impl About ===

impl About {
    /// Reads it where it is here and can be read; leaves the order of eviction alone. Blocking.
    pub(super) fn read(store: &Store, config: &Digest) -> Option<Self> {
        let (file, size) = store.open_object(&Key::blob(config)).ok()??;
        if size > LARGEST {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Self::parse(&bytes)
    }

    /// `None`: it is no configuration of an image, as with artifacts that are kept in registries too.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(bytes).ok()?;
        if written.os.is_empty() {
            return None;
        }
        let run = written.config.unwrap_or_default();
        let mut platform = format!("{}/{}", written.os, written.architecture);
        if let Some(variant) = written.variant.filter(|variant| !variant.is_empty()) {
            platform = format!("{platform}/{variant}");
        }
        let steps = written.history.unwrap_or_default().into_iter();
        let steps = steps.filter(|step| step.empty_layer != Some(true));
        Some(Self {
            created: written.created,
            platform,
            entrypoint: run.entrypoint.unwrap_or_default(),
            command: run.cmd.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_directory: run.working_dir.unwrap_or_default(),
            ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
            labels: run.labels.unwrap_or_default(),
            made_by: steps
                .map(|step| step.created_by.unwrap_or_default())
                .collect(),
        })
    }
}

/// Bytes; the largest known have some hundred KiB.
const LARGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_without_a_layer_are_left_out_and_so_is_the_environment() {
        let text = r#"{
            "created": "2026-01-02T03:04:05Z", "os": "linux", "architecture": "arm64", "variant": "v8",
            "config": { "Env": ["PASSWORD=hush"], "Cmd": ["nginx"], "Entrypoint": null,
                        "ExposedPorts": { "80/tcp": {} }, "Labels": { "a": "b" } },
            "history": [{ "created_by": "ADD rootfs" }, { "created_by": "CMD", "empty_layer": true }, {}]
        }"#;
        let about = About::parse(text.as_bytes()).unwrap();
        assert_eq!(about.platform, "linux/arm64/v8");
        assert_eq!(about.made_by, ["ADD rootfs", ""]);
        assert_eq!(
            (about.command, about.ports),
            (vec!["nginx".to_owned()], vec!["80/tcp".to_owned()])
        );
        assert_eq!(about.labels["a"], "b");
    }

    #[test]
    fn what_is_no_image_has_nothing_to_say() {
        assert_eq!(About::parse(b"{}"), None);
        assert_eq!(About::parse(b"[1]"), None);
    }
}
