//! Just enough of a manifest or an index to know its media type and its children (OCI image
//! specification, "Image Manifest" and "Image Index").

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::oci::digest::Digest;

/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest list, the elder sister of the index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image manifest, version 2, schema 1, without signatures.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Docker's image manifest, version 2, schema 1, signed.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The types in use today: what to ask an upstream for when no client says what it takes.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// The most children that a manifest may have. The largest known images have some hundred layers.
pub const MAX_CHILDREN: usize = 10_000;

/// What a manifest or an index refers to. Its subject is no child: a signature is nothing without what it
/// signs, and not the other way round. Nor are the layers of schema 1 children, whose sizes it does not
/// tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children {
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// The configuration of an image.
    pub config: Option<Descriptor>,
    /// The layers of an image, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about, such as the image that a signature is of.
    pub subject: Option<Digest>,
}

/// A reference to content, with its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The type of the content, `application/octet-stream` where none is given.
    pub media_type: String,
    /// The name of the content.
    pub digest: Digest,
    /// The length in bytes, at most `i64::MAX`.
    pub size: u64,
    /// What the content runs on, within an index.
    pub platform: Option<Platform>,
}

/// What an image runs on, in Go's words (`linux`, `arm64`, `v8`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// The kind of the processor.
    #[serde(default)]
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no platform; say for example linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

/// Why the children of a manifest are not known in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON object of the shape expected; the reason is the parser's.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// A descriptor has no valid digest, size or media type; its place is given.
    #[error("the manifest's {0} is no valid descriptor")]
    Descriptor(String),
    /// More than [`MAX_CHILDREN`].
    #[error("the manifest has more than {MAX_CHILDREN} children")]
    TooMany,
}

/// The media type of a manifest: the one that it states, else the one of its shape. `None` if it
/// is no manifest, or if its shape is of two kinds at once: to tell clients one and cache the other
/// is how an image is made to differ by who looks at it.
pub fn sniff(bytes: &[u8]) -> Option<String> {
    let outline: Outline = serde_json::from_slice(bytes).ok()?;
    let stated = outline.media_type.and_then(Lenient::sound);
    if let Some(stated) = stated.filter(|stated| is_media_type(stated)) {
        return Some(stated);
    }
    let image = outline.config.is_some() && outline.layers.is_some();
    let shape = match (
        outline.manifests.is_some(),
        image,
        outline.fs_layers.is_some(),
    ) {
        (true, false, false) if outline.layers.is_none() => OCI_INDEX,
        (false, true, false) => OCI_MANIFEST,
        (false, false, true) if outline.signatures.is_some() => DOCKER_SCHEMA1_SIGNED,
        (false, false, true) => DOCKER_SCHEMA1,
        _ => return None,
    };
    Some(shape.to_owned())
}

/// The media type that a manifest states, where it states one.
pub fn stated(bytes: &[u8]) -> Option<String> {
    let outline: Outline = serde_json::from_slice(bytes).ok()?;
    let stated = outline.media_type.and_then(Lenient::sound);
    stated.filter(|stated| is_media_type(stated))
}

/// Whether `text` is `type/subtype` with nothing around it (RFC 9110 section 8.3.1), and so may
/// stand in a header. At most 255 bytes.
pub fn is_media_type(text: &str) -> bool {
    let is_token = |part: &str| {
        let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !part.is_empty() && part.bytes().all(is_tchar)
    };
    text.len() <= 255
        && text
            .split_once('/')
            .is_some_and(|(family, kind)| is_token(family) && is_token(kind))
}

// === impl Children ===

impl Children {
    /// Every child that can be read; one that cannot is passed over, and what is no manifest has
    /// none. For hints such as a look ahead: whoever decides by it what to keep asks
    /// [`Children::try_parse`].
    pub fn parse(bytes: &[u8]) -> Self {
        let Ok(raw) = serde_json::from_slice::<RawManifest>(bytes) else {
            return Self::default();
        };
        let known = |list: Few<Lenient<RawDescriptor>>| {
            let sound = list.0.into_iter().filter_map(Descriptor::from_raw);
            sound.take(MAX_CHILDREN).collect()
        };
        Self {
            manifests: known(raw.manifests.unwrap_or_default()),
            config: raw.config.and_then(Descriptor::from_raw),
            layers: known(raw.layers.unwrap_or_default()),
            subject: raw
                .subject
                .and_then(Descriptor::from_raw)
                .map(|one| one.digest),
        }
    }

    /// All children, or what is wrong with the manifest. Fields that are not known are passed over.
    pub fn try_parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawManifest = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::Json(error.to_string()))?;
        let (manifests, layers) = (
            raw.manifests.unwrap_or_default().0,
            raw.layers.unwrap_or_default().0,
        );
        if manifests.len() + layers.len() > MAX_CHILDREN {
            return Err(ManifestError::TooMany);
        }
        let wrong = |place: fmt::Arguments<'_>| ManifestError::Descriptor(place.to_string());
        let all = |place: &str, list: Vec<Lenient<RawDescriptor>>| {
            let numbered = list.into_iter().enumerate();
            let known = numbered.map(|(at, raw)| {
                Descriptor::from_raw(raw).ok_or_else(|| wrong(format_args!("{place}[{at}]")))
            });
            known.collect::<Result<Vec<_>, _>>()
        };
        let config = raw
            .config
            .map(|raw| Descriptor::from_raw(raw).ok_or_else(|| wrong(format_args!("config"))));
        Ok(Self {
            manifests: all("manifests", manifests)?,
            config: config.transpose()?,
            layers: all("layers", layers)?,
            subject: raw
                .subject
                .and_then(Descriptor::from_raw)
                .map(|one| one.digest),
        })
    }

    /// All of them: manifests, then the configuration, then the layers.
    pub fn iter(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests
            .iter()
            .chain(&self.config)
            .chain(&self.layers)
    }
}

// === impl Descriptor ===

impl Descriptor {
    /// Whether the content is kept outside the registry, which may not have it to give.
    pub fn is_foreign(&self) -> bool {
        self.media_type
            .starts_with("application/vnd.docker.image.rootfs.foreign.")
            || self
                .media_type
                .starts_with("application/vnd.oci.image.layer.nondistributable.")
    }

    fn from_raw(raw: Lenient<RawDescriptor>) -> Option<Self> {
        let raw = raw.sound()?;
        let media_type = raw
            .media_type
            .unwrap_or_else(|| "application/octet-stream".to_owned());
        // The length is an int64 in the specification.
        if !is_media_type(&media_type) || i64::try_from(raw.size).is_err() {
            return None;
        }
        Some(Self {
            media_type,
            digest: raw.digest.parse().ok()?,
            size: raw.size,
            platform: raw.platform.and_then(Lenient::sound),
        })
    }
}

// === impl Platform ===

impl Platform {
    /// Whether an image of `offered` is what is asked for here: a variant counts only where one is
    /// asked for.
    pub fn is_met_by(&self, offered: &Self) -> bool {
        let variant = |platform: &Self| platform.variant.clone().filter(|text| !text.is_empty());
        self.os == offered.os
            && self.architecture == offered.architecture
            && variant(self).is_none_or(|wanted| variant(offered) == Some(wanted))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = |part: &&str| {
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !part.is_empty() && part.bytes().all(is_word)
        };
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        if !parts.iter().all(sound) {
            return Err(PlatformError(text.to_owned()));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    /// `os/architecture` or `os/architecture/variant`, as command lines take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// The fields that tell one kind of manifest from another. A field that comes twice is an error:
/// which of the two counts would depend on the reader.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<Lenient<String>>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
    signatures: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct RawManifest {
    manifests: Option<Few<Lenient<RawDescriptor>>>,
    config: Option<Lenient<RawDescriptor>>,
    layers: Option<Few<Lenient<RawDescriptor>>>,
    subject: Option<Lenient<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<Lenient<Platform>>,
}

/// A list of which one more than [`MAX_CHILDREN`] is held, however long it is.
struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T>, A::Error> {
                let mut few = Vec::new();
                while few.len() <= MAX_CHILDREN {
                    match list.next_element()? {
                        Some(value) => few.push(value),
                        None => return Ok(Few(few)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(Visit(PhantomData))
    }
}

/// A value that does not spoil those around it by being malformed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Sound(T),
    Malformed(IgnoredAny),
}

// === impl Lenient ===

impl<T> Lenient<T> {
    fn sound(self) -> Option<T> {
        match self {
            Self::Sound(value) => Some(value),
            Self::Malformed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::digest::Algorithm;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn descriptor(of: &str) -> Value {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(of).as_str(), "size": of.len(),
            "annotations": { "unknown": "to us" },
        })
    }

    fn sniffed(json: &Value) -> Option<String> {
        sniff(json.to_string().as_bytes())
    }

    #[test]
    fn a_stated_media_type_counts() {
        let json = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [] });
        assert_eq!(sniffed(&json).as_deref(), Some(DOCKER_LIST));
    }

    #[test]
    fn without_one_the_shape_counts() {
        for (json, media_type) in [
            (json!({ "manifests": [] }), OCI_INDEX),
            (json!({ "config": {}, "layers": [] }), OCI_MANIFEST),
            (
                json!({ "mediaType": 7, "config": {}, "layers": [] }),
                OCI_MANIFEST,
            ),
            (
                json!({ "mediaType": "a/b\r\nx: y", "manifests": [] }),
                OCI_INDEX,
            ),
            (json!({ "fsLayers": [] }), DOCKER_SCHEMA1),
            (
                json!({ "fsLayers": [], "signatures": [] }),
                DOCKER_SCHEMA1_SIGNED,
            ),
        ] {
            assert_eq!(sniffed(&json).as_deref(), Some(media_type), "{json}");
        }
    }

    #[test]
    fn what_is_no_manifest_or_two_at_once_has_no_type() {
        for json in [
            json!({}),
            json!([]),
            json!({ "layers": [] }),
            json!({ "manifests": [], "layers": [] }),
            json!({ "manifests": [], "config": {}, "layers": [] }),
            json!({ "manifests": [], "fsLayers": [] }),
        ] {
            assert_eq!(sniffed(&json), None, "{json}");
        }
        assert_eq!(sniff(b"<html>"), None);
        assert_eq!(sniff(br#"{"mediaType":"a/b","mediaType":"c/d"}"#), None);
    }

    #[test]
    fn an_image_has_a_configuration_and_layers_in_order() {
        let json = json!({
            "config": descriptor("c"), "layers": [descriptor("one"), descriptor("two")],
            "subject": descriptor("s"),
        });
        let children = Children::try_parse(json.to_string().as_bytes()).unwrap();
        assert_eq!(children.config.as_ref().unwrap().digest, digest("c"));
        let digests: Vec<_> = children.iter().map(|child| child.digest.clone()).collect();
        assert_eq!(digests, [digest("c"), digest("one"), digest("two")]);
        assert_eq!(children.layers[1].size, 3);
        assert_eq!(children, Children::parse(json.to_string().as_bytes()));
    }

    #[test]
    fn an_index_has_manifests_with_platforms() {
        let mut arm = descriptor("arm");
        arm["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
        let mut odd = descriptor("odd");
        odd["platform"] = json!({ "os": 1 });
        let json = json!({ "manifests": [arm, odd] });
        let children = Children::try_parse(json.to_string().as_bytes()).unwrap();
        let platform = children.manifests[0].platform.as_ref().unwrap();
        assert_eq!(platform.to_string(), "linux/arm64/v8");
        assert_eq!(children.manifests[1].platform, None);
    }

    #[test]
    fn a_malformed_child_is_passed_over_or_named() {
        let bad = [
            json!({ "digest": "sha256:XYZ", "size": 1 }),
            json!({ "digest": digest("x").as_str() }),
            json!({ "digest": digest("x").as_str(), "size": -1 }),
            json!({ "digest": digest("x").as_str(), "size": u64::MAX }),
            json!({ "digest": digest("x").as_str(), "size": 1, "mediaType": "a b" }),
            json!("text"),
            Value::Null,
        ];
        for bad in bad {
            let json = json!({ "layers": [descriptor("good"), bad] }).to_string();
            assert_eq!(Children::parse(json.as_bytes()).layers.len(), 1, "{json}");
            assert_eq!(
                Children::try_parse(json.as_bytes())
                    .unwrap_err()
                    .to_string(),
                "the manifest's layers[1] is no valid descriptor",
                "{json}"
            );
        }
    }

    #[test]
    fn a_descriptor_without_a_media_type_is_some_bytes() {
        let json = json!({ "config": { "digest": digest("x").as_str(), "size": 1 } }).to_string();
        let config = Children::parse(json.as_bytes()).config.unwrap();
        assert_eq!(config.media_type, "application/octet-stream");
    }

    #[test]
    fn there_is_a_limit_to_children() {
        let layers = vec![descriptor("x"); MAX_CHILDREN + 1];
        let json = json!({ "layers": layers }).to_string();
        assert_eq!(
            Children::try_parse(json.as_bytes()),
            Err(ManifestError::TooMany)
        );
        assert_eq!(Children::parse(json.as_bytes()).layers.len(), MAX_CHILDREN);
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let deep = format!(
            "{{\"layers\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(matches!(
            Children::try_parse(deep.as_bytes()),
            Err(ManifestError::Json(_))
        ));
        assert_eq!(sniff(deep.as_bytes()), None);
    }

    #[test]
    fn a_layer_that_is_kept_elsewhere_is_foreign() {
        let mut layer = descriptor("x");
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let json = json!({ "layers": [layer, descriptor("y")] }).to_string();
        let children = Children::parse(json.as_bytes());
        assert!(children.layers[0].is_foreign() && !children.layers[1].is_foreign());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes: Vec<u8>, size: i64, text in "\\PC*") {
            let _ = (sniff(&bytes), Children::parse(&bytes), Children::try_parse(&bytes));
            let json = json!({
                "mediaType": text, "layers": [{ "digest": text, "size": size, "mediaType": text }],
            });
            let json = json.to_string();
            let _ = (sniff(json.as_bytes()), Children::try_parse(json.as_bytes()));
        }
    }
}
