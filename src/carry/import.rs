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
use crate::cache::catalog::ImageId;
use crate::cache::put::PutError;
use crate::cache::{Cache, Manifest};
use crate::oci::digest::{Digest, Hasher};
use crate::oci::manifest::{Children, sniff};
use crate::store::Key;

/// An image that is here now, whole as far as the file goes.
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
    /// Blobs and manifests that were here before.
    pub known: u64,
    /// Images of the file that could not be taken in, and why.
    pub refused: Vec<(String, String)>,
}

/// Why a file could not be taken in at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("this is no tar, or it ends in the middle: {0}; nothing of it was kept")]
    Tar(io::Error),
    #[error(
        "the file is compressed with {with}, and a plain tar is wanted: `{undo} < FILE | pierhead import -`"
    )]
    Compressed {
        with: &'static str,
        undo: &'static str,
    },
    #[error(
        "the file has no index.json, so it is no OCI image layout; `skopeo copy docker-archive:FILE oci-archive:NEW` makes one of a docker archive"
    )]
    NoLayout,
    #[error("{0} of the file cannot be read: {1}; nothing of it was kept")]
    Document(&'static str, String),
    #[error(
        "{digest} of the file is damaged: its bytes hash to {actual}; nothing of the file was kept, copy it anew"
    )]
    Damaged { digest: Digest, actual: Digest },
    #[error("the cache cannot take {digest}: {why}; nothing of the file was kept")]
    NotKept { digest: Digest, why: String },
}

/// Reads a layout from `source` into `cache`, and gives its images their names: `place` says where the
/// cache keeps an image of a name, or why nowhere. `name` is what the image is called where the file does
/// not say.
///
/// A file that is damaged, or ends too early, leaves nothing behind, and one of its images that is not
/// whole leaves nothing of its own.
pub async fn import(
    cache: &Arc<Cache>,
    source: impl AsyncRead + Unpin + Send,
    name: Option<&str>,
    place: impl Fn(&str) -> Result<ImageId, String> + Sync,
) -> Result<Imported, ImportError> {
    let mut taking = Taking {
        cache,
        brought: HashSet::new(),
        done: Imported::default(),
    };
    let taken = taking.take(source, name, place).await;
    let Taking { brought, done, .. } = taking;
    // What got a name is needed.
    let gone = cache.take_back(brought).await;
    taken.map(|()| Imported {
        added: done.added.saturating_sub(gone.manifests + gone.blobs),
        added_bytes: done.added_bytes.saturating_sub(gone.bytes),
        ..done
    })
}

/// An import under way.
struct Taking<'a> {
    cache: &'a Arc<Cache>,
    /// What was not here before.
    brought: HashSet<Key>,
    done: Imported,
}

/// The documents of a layout, and the small blobs that may be manifests.
#[derive(Default)]
struct Documents {
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    small: HashMap<Digest, Bytes>,
}

// === impl Taking ===

impl Taking<'_> {
    async fn take(
        &mut self,
        source: impl AsyncRead + Unpin + Send,
        name: Option<&str>,
        place: impl Fn(&str) -> Result<ImageId, String> + Sync,
    ) -> Result<(), ImportError> {
        let documents = self.unpack(source).await?;
        let index = documents.index.ok_or(ImportError::NoLayout)?;
        let index: Index = serde_json::from_slice(&index)
            .map_err(|e| ImportError::Document("index.json", e.to_string()))?;
        let alone = index.manifests.len() == 1;
        let mut whole = Vec::new();
        for entry in index.manifests {
            let shown = entry.name().unwrap_or(&entry.digest).to_owned();
            let Ok(root) = Digest::from_str(&entry.digest) else {
                self.refuse(shown, "its digest is not one");
                continue;
            };
            let mut names: Vec<String> = match entry.name() {
                Some(name) => vec![name.to_owned()],
                None if alone => name.map(str::to_owned).into_iter().collect(),
                None => Vec::new(),
            };
            if names.is_empty() && alone {
                names = only_tags(documents.docker.as_deref());
            }
            match self.settle(&root, &documents.small).await {
                // What has no name is about others that have (a signature).
                Ok(absent) => whole.extend(names.into_iter().map(|name| Image {
                    name,
                    root: root.clone(),
                    absent,
                })),
                Err(why) => self.refuse(shown, why),
            }
        }
        // Last, because a name also leads to what is about its image.
        for image in whole {
            let named = match place(&image.name) {
                Ok(id) => self.cache.import_image(&id, &image.root).await,
                Err(why) => {
                    self.refuse(image.name, why);
                    continue;
                }
            };
            match named {
                Ok(()) => self.done.images.push(image),
                Err(e) => self.refuse(image.name, e),
            }
        }
        Ok(())
    }

    async fn unpack(
        &mut self,
        mut source: impl AsyncRead + Unpin + Send,
    ) -> Result<Documents, ImportError> {
        let mut documents = Documents::default();
        let mut start = Vec::new();
        let mut head = (&mut source).take(LONGEST_MAGIC);
        head.read_to_end(&mut start)
            .await
            .map_err(ImportError::Tar)?;
        if let Some((_, with, undo)) = COMPRESSED.iter().find(|one| start.starts_with(one.0)) {
            return Err(ImportError::Compressed { with, undo });
        }
        let mut archive = Archive::new(start.as_slice().chain(source));
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
                    self.blob(&mut documents, digest, &mut entry, size).await?;
                }
            }
        }
        Ok(documents)
    }

    /// Takes one file of `blobs/` in. What may be a manifest is held back until it is known to be one.
    async fn blob(
        &mut self,
        documents: &mut Documents,
        digest: Digest,
        entry: &mut (impl AsyncRead + Unpin + Send),
        size: u64,
    ) -> Result<(), ImportError> {
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
            return self.keep(digest, size, &bytes[..]).await;
        }
        self.keep(digest, size, entry).await
    }

    /// Keeps a blob. One that is here already is read and verified all the same: the file is not to be
    /// trusted in part.
    async fn keep(
        &mut self,
        digest: Digest,
        size: u64,
        mut bytes: impl AsyncRead + Unpin + Send,
    ) -> Result<(), ImportError> {
        let put = self.cache.put_blob(&digest, size, &mut bytes).await;
        match put {
            Ok(true) => {
                self.done.added += 1;
                self.done.added_bytes += size;
                self.brought.insert(Key::blob(&digest));
                Ok(())
            }
            Ok(false) => {
                self.done.known += 1;
                hashed(&digest, &mut bytes).await
            }
            Err(PutError::Read { source, .. }) => Err(ImportError::Tar(source)),
            Err(PutError::Mismatch { expected, actual }) => Err(ImportError::Damaged {
                digest: expected,
                actual,
            }),
            Err(PutError::Size { .. }) => {
                Err(ImportError::Tar(io::ErrorKind::UnexpectedEof.into()))
            }
            Err(why) => Err(ImportError::NotKept {
                digest,
                why: why.to_string(),
            }),
        }
    }

    /// Follows an image from its root: every manifest is kept as one, and every blob must be here. Answers
    /// how many platforms of it are not.
    async fn settle(
        &mut self,
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
            let known = self.cache.manifest(&digest).await;
            let is_new = known.is_none();
            let bytes = match (known, small.get(&digest)) {
                (Some(known), _) => known.bytes,
                (None, Some(bytes)) => bytes.clone(),
                // An index may list platforms that were left out.
                (None, None) if depth > 0 => {
                    absent += 1;
                    continue;
                }
                (None, None) => return Err(format!("its manifest {digest} is not in the file")),
            };
            let children = Children::try_parse(&bytes).map_err(|e| e.to_string())?;
            let media_type = sniff(&bytes).ok_or_else(|| format!("{digest} is no manifest"))?;
            for child in children.config.iter().chain(&children.layers) {
                if !child.is_foreign() && !self.holds(&child.digest, small).await {
                    return Err(format!("its blob {} is not in the file", child.digest));
                }
            }
            if is_new {
                self.done.added += 1;
                self.done.added_bytes += bytes.len() as u64;
                self.brought.insert(Key::manifest(&digest));
                let manifest = Manifest {
                    digest: digest.clone(),
                    media_type: media_type.into(),
                    bytes,
                };
                self.cache.keep_manifest(&manifest).await;
            } else {
                self.done.known += 1;
            }
            seen.insert(digest);
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
    async fn holds(&mut self, digest: &Digest, small: &HashMap<Digest, Bytes>) -> bool {
        if self.cache.blob(digest).await.is_some() {
            return true;
        }
        let Some(bytes) = small.get(digest) else {
            return false;
        };
        self.keep(digest.clone(), bytes.len() as u64, &bytes[..])
            .await
            .is_ok()
    }

    fn refuse(&mut self, image: String, why: impl ToString) {
        self.done.refused.push((image, why.to_string()));
    }
}

/// Reads what is left of a file of the tar, which must be what its name says.
async fn hashed(digest: &Digest, bytes: &mut (impl AsyncRead + Unpin)) -> Result<(), ImportError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut chunk = vec![0; CHUNK];
    loop {
        match bytes.read(&mut chunk).await.map_err(ImportError::Tar)? {
            0 => break,
            n => hasher.update(&chunk[..n]),
        }
    }
    let actual = hasher.finish();
    match actual == *digest {
        true => Ok(()),
        false => Err(ImportError::Damaged {
            digest: digest.clone(),
            actual,
        }),
    }
}

/// The one image's names in Docker's `manifest.json`, which names no manifest: of several images it
/// cannot be said which is which.
fn only_tags(docker: Option<&[u8]>) -> Vec<String> {
    let images = docker.and_then(|text| serde_json::from_slice::<Vec<DockerImage>>(text).ok());
    match images.as_deref() {
        Some([only]) => only.repo_tags.clone(),
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

/// How compressed files begin, what that is, and what undoes it.
const COMPRESSED: &[(&[u8], &str, &str)] = &[
    (&[0x1f, 0x8b], "gzip", "gunzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -d"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -d"),
    (b"BZh", "bzip2", "bunzip2"),
];
/// Bytes.
const LONGEST_MAGIC: u64 = 6;
const LARGEST_MANIFEST: u64 = 4 << 20;
const LARGEST_DOCUMENT: u64 = 64 << 20;
const DEEPEST: usize = 4;
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
