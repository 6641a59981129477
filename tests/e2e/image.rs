//! Images made on the spot: real tar layers of random bytes, Docker schema 2 or OCI.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One mebibyte, the unit of layers.
pub const MIB: usize = 1 << 20;

/// An image of one platform with all its bytes.
#[derive(Clone)]
pub struct Image {
    pub manifest: Document,
    /// The configuration's digest, which is Docker's image id.
    pub id: String,
    pub layers: Vec<Blob>,
    config: Blob,
}

/// Several images under one name.
pub struct Index {
    pub list: Document,
    pub images: Vec<Image>,
}

/// A manifest or an index as it is pushed.
#[derive(Clone)]
pub struct Document {
    pub media_type: &'static str,
    pub digest: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone)]
pub struct Blob {
    pub digest: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Docker,
    Oci,
}

/// The architecture of the machine the tests run on, as images spell it.
pub fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

// === impl Image ===

impl Image {
    /// A Docker image for this machine, one layer per size in bytes.
    pub fn docker(sizes: &[usize]) -> Self {
        Self::build(Kind::Docker, native(), sizes)
    }

    /// The same in OCI's types.
    pub fn oci(sizes: &[usize]) -> Self {
        Self::build(Kind::Oci, native(), sizes)
    }

    pub fn build(kind: Kind, architecture: &str, sizes: &[usize]) -> Self {
        let layers = sizes.iter().enumerate().map(|(number, size)| {
            let mut content = vec![0; *size];
            getrandom::fill(&mut content).expect("random bytes");
            Blob::of(tar(&format!("layer-{number}"), &content))
        });
        Self::assemble(kind, architecture, layers.collect())
    }

    /// Another image on top of this one's layers.
    pub fn extended(&self, size: usize) -> Self {
        let mut layers = self.layers.clone();
        layers.extend(Self::docker(&[size]).layers);
        Self::assemble(Kind::Docker, native(), layers)
    }

    /// All blobs: the configuration, then the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    fn assemble(kind: Kind, architecture: &str, layers: Vec<Blob>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
        let config = Blob::of(encode(&json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["/layer-0"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "a test"})).collect::<Vec<_>>(),
        })));
        let (media_type, config_type, layer_type) = match kind {
            Kind::Docker => (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar",
            ),
            Kind::Oci => (
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar",
            ),
        };
        let described: Vec<_> = layers.iter().map(|it| it.described(layer_type)).collect();
        let manifest = Document::new(
            media_type,
            &json!({
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": config.described(config_type),
                "layers": described,
            }),
        );
        Self {
            manifest,
            id: config.digest.clone(),
            layers,
            config,
        }
    }
}

// === impl Index ===

impl Index {
    /// One image for each architecture.
    pub fn build(kind: Kind, architectures: &[&str], sizes: &[usize]) -> Self {
        let images: Vec<_> = architectures
            .iter()
            .map(|architecture| Image::build(kind, architecture, sizes))
            .collect();
        let entries: Vec<_> = architectures
            .iter()
            .zip(&images)
            .map(|(architecture, image)| {
                json!({
                    "mediaType": image.manifest.media_type,
                    "digest": image.manifest.digest,
                    "size": image.manifest.bytes.len(),
                    "platform": {"architecture": architecture, "os": "linux"},
                })
            })
            .collect();
        let media_type = match kind {
            Kind::Docker => DOCKER_LIST,
            Kind::Oci => OCI_INDEX,
        };
        let list = Document::new(
            media_type,
            &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}),
        );
        Self { list, images }
    }
}

// === impl Document ===

impl Document {
    fn new(media_type: &'static str, value: &Value) -> Self {
        let bytes = encode(value);
        Self {
            media_type,
            digest: sha256(&bytes),
            bytes,
        }
    }
}

// === impl Blob ===

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            digest: sha256(&bytes),
            bytes,
        }
    }

    fn described(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:` and the hex of it.
pub fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn encode(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("JSON of strings and numbers")
}

/// A tar archive (POSIX ustar) with one executable file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    // The checksum is summed with its own field full of blanks.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    archive
}
