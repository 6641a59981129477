//! One tar → the cache, everything verified on its way in.

use std::collections::{HashMap, HashSet};
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tar::Archive;

use super::layout::{DockerImage, Index};
use crate::cache::{Cache, Manifest};
use crate::oci::digest::Digest;
use crate::oci::manifest::{Children, sniff};

/// An image that is complete here, as far as the file goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    pub root: Digest,
    /// Platforms of an index that the file does not have.
    pub absent: usize,
}

/// What came in.
#[derive(Debug, Default)]
pub struct Imported {
    pub images: Vec<Image>,
    /// Blobs and manifests that are new here, and their bytes.
    pub added: u64,
    pub added_bytes: u64,
    /// Blobs that were here before.
    pub known: u64,
    /// Images of the file that could not be taken in, and why.
    pub refused: Vec<(String, String)>,
}

/// Why a file could not be taken in at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("this is no tar, or it ends in the middle: {0}")]
    Tar(io::Error),
    #[error(
        "the file has no index.json, so it is no OCI image layout; `skopeo copy docker-archive:FILE oci-archive:NEW` makes one of a docker archive"
    )]
    NoLayout,
    #[error("{0} of the file cannot be read: {1}")]
    Document(&'static str, String),
    #[error("{digest} of the file is damaged: its bytes hash to {actual}")]
    Damaged { digest: Digest, actual: Digest },
    #[error("the cache cannot take {digest}: {why}")]
    NotKept { digest: Digest, why: String },
}

/// Reads a layout from `source` into `cache`. `name` is what the image is called where the file does
/// not say. Blobs that are here already are passed over, so a transfer that broke is repeated cheaply.
/// No name leads to what came in
/// until the caller gives it one (`Cache::import_image`).
pub async fn import(
    cache: &Arc<Cache>,
    source: impl AsyncRead + Unpin + Send,
    name: Option<&str>,
) -> Result<Imported, ImportError> {
    let mut done = Imported::default();
    let documents = unpack(cache, source, &mut done).await?;
    let index = documents.index.ok_or(ImportError::NoLayout)?;
    let index: Index = serde_json::from_slice(&index)
        .map_err(|e| ImportError::Document("index.json", e.to_string()))?;
    let alone = index.manifests.len() == 1;
    for entry in index.manifests {
        let shown = entry.name().unwrap_or(&entry.digest).to_owned();
        let Ok(root) = Digest::from_str(&entry.digest) else {
            done.refused
                .push((shown, "its digest is not one".to_owned()));
            continue;
        };
        let mut names: Vec<String> = match entry.name() {
            Some(name) => vec![name.to_owned()],
            None => name.map(str::to_owned).into_iter().collect(),
        };
        if names.is_empty() && alone {
            names = only_tags(documents.docker.as_deref());
        }
        match settle(cache, &root, &documents.small).await {
            // What has no name only refers to others (a signature).
            Ok(absent) => done.images.extend(names.into_iter().map(|name| Image {
                name,
                root: root.clone(),
                absent,
            })),
            Err(why) => done.refused.push((shown, why)),
        }
    }
    Ok(done)
}

/// The documents of a layout, and the small blobs that may be manifests.
#[derive(Default)]
struct Documents {
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    small: HashMap<Digest, Bytes>,
}

async fn unpack(
    cache: &Arc<Cache>,
    source: impl AsyncRead + Unpin + Send,
    done: &mut Imported,
) -> Result<Documents, ImportError> {
    let mut documents = Documents::default();
    let mut archive = Archive::new(source);
    let mut entries = archive.entries().map_err(ImportError::Tar)?;
    while let Some(entry) = entries.next().await {
        let mut entry = entry.map_err(ImportError::Tar)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let size = entry.effective_size();
        let path = entry.path().map_err(ImportError::Tar)?;
        let path = path.to_string_lossy();
        let path = path.trim_start_matches("./").to_owned();
        match path.as_str() {
            "index.json" => {
                documents.index = Some(document("index.json", &mut entry, size).await?);
            }
            "manifest.json" => {
                documents.docker = Some(document("manifest.json", &mut entry, size).await?);
            }
            path => {
                let name = path.strip_prefix("blobs/").map(|n| n.replacen('/', ":", 1));
                let Some(digest) = name.and_then(|name| Digest::from_str(&name).ok()) else {
                    continue;
                };
                blob(cache, &mut documents, digest, &mut entry, size, done).await?;
            }
        }
    }
    Ok(documents)
}

/// Takes one file of `blobs/` in. What may be a manifest is held back until it is known to be one.
async fn blob(
    cache: &Arc<Cache>,
    documents: &mut Documents,
    digest: Digest,
    entry: &mut (impl AsyncRead + Unpin + Send),
    size: u64,
    done: &mut Imported,
) -> Result<(), ImportError> {
    if let Some(known) = cache.manifest(&digest).await {
        documents.small.insert(digest, known.bytes);
        done.known += 1;
        return Ok(());
    }
    if size <= LARGEST_MANIFEST {
        let bytes = read(entry, size).await.map_err(ImportError::Tar)?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != digest {
            return Err(ImportError::Damaged { digest, actual });
        }
        if sniff(&bytes).is_some() {
            documents.small.insert(digest, bytes.into());
            return Ok(());
        }
        return keep(cache, digest, size, &bytes[..], done).await;
    }
    keep(cache, digest, size, entry, done).await
}

async fn keep(
    cache: &Arc<Cache>,
    digest: Digest,
    size: u64,
    bytes: impl AsyncRead + Unpin + Send,
    done: &mut Imported,
) -> Result<(), ImportError> {
    match cache.put_blob(&digest, size, bytes).await {
        Ok(true) => {
            done.added += 1;
            done.added_bytes += size;
            Ok(())
        }
        Ok(false) => {
            done.known += 1;
            Ok(())
        }
        Err(why) => Err(ImportError::NotKept {
            digest,
            why: why.to_string(),
        }),
    }
}

/// Follows an image from its root: every manifest is kept as one, and every blob must be here. Answers how
/// many platforms of it are not.
async fn settle(
    cache: &Arc<Cache>,
    root: &Digest,
    small: &HashMap<Digest, Bytes>,
) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut absent = 0;
    let mut stack = vec![(root.clone(), 0)];
    while let Some((digest, depth)) = stack.pop() {
        if seen.contains(&digest) {
            continue;
        }
        let bytes = match small.get(&digest) {
            Some(bytes) => bytes.clone(),
            None => match cache.manifest(&digest).await {
                Some(known) => known.bytes,
                // An index may list platforms that were left out.
                None if depth > 0 => {
                    absent += 1;
                    continue;
                }
                None => return Err(format!("its manifest {digest} is not in the file")),
            },
        };
        let children = Children::try_parse(&bytes).map_err(|e| e.to_string())?;
        let media_type = sniff(&bytes).ok_or_else(|| format!("{digest} is no manifest"))?;
        let manifest = Manifest {
            digest: digest.clone(),
            media_type: media_type.into(),
            bytes,
        };
        cache.keep_manifest(&manifest).await;
        seen.insert(digest);
        for child in children.config.iter().chain(&children.layers) {
            let elsewhere = child.media_type.contains("nondistributable")
                || child.media_type.contains("foreign");
            if !elsewhere && !held(cache, &child.digest, small).await {
                return Err(format!("its blob {} is not in the file", child.digest));
            }
        }
        if depth < DEEPEST {
            let below = children.manifests.into_iter();
            stack.extend(below.map(|child| (child.digest, depth + 1)));
        }
    }
    if seen.len() == 1 && absent > 0 {
        return Err("none of its platforms is in the file".to_owned());
    }
    Ok(absent)
}

/// Whether a blob is here; one that looked like a manifest is put where blobs are.
async fn held(cache: &Arc<Cache>, digest: &Digest, small: &HashMap<Digest, Bytes>) -> bool {
    if cache.blob(digest).await.is_some() {
        return true;
    }
    let Some(bytes) = small.get(digest) else {
        return false;
    };
    let size = bytes.len() as u64;
    cache.put_blob(digest, size, &bytes[..]).await.is_ok()
}

/// The one image's names in Docker's `manifest.json`, which names no manifest: of several images it
/// cannot be said which is which.
fn only_tags(docker: Option<&[u8]>) -> Vec<String> {
    let images = docker.and_then(|text| serde_json::from_slice::<Vec<DockerImage>>(text).ok());
    match images.as_deref() {
        Some([only]) => only.repo_tags.clone().unwrap_or_default(),
        _ => Vec::new(),
    }
}

async fn document(
    name: &'static str,
    entry: &mut (impl AsyncRead + Unpin),
    size: u64,
) -> Result<Vec<u8>, ImportError> {
    if size > LARGEST_DOCUMENT {
        let why = format!("it has {size} bytes, more than {LARGEST_DOCUMENT}");
        return Err(ImportError::Document(name, why));
    }
    read(entry, size).await.map_err(ImportError::Tar)
}

async fn read(entry: &mut (impl AsyncRead + Unpin), size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    entry.take(size).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

const LARGEST_MANIFEST: u64 = 4 << 20;
const LARGEST_DOCUMENT: u64 = 64 << 20;
const DEEPEST: usize = 4;
