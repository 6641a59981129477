//! A tar (POSIX ustar) whose every byte is known by its place, so that any part of it can be sent
//! without the rest.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_tar::Header;

use crate::cache::Object;
use crate::cache::reader::Reader;
use crate::oci::digest::{Algorithm, Hasher};
use crate::wire::body::Body;

/// One file in it.
#[derive(Debug)]
pub(super) struct File {
    header: Bytes,
    content: Content,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Bytes),
    Disk(Object),
}

/// A part of the tar, and where it is to be read.
struct Part {
    content: Content,
    start: u64,
    end: u64,
}

// === impl File ===

impl File {
    pub(super) fn new(path: &str, content: Content) -> Self {
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

    pub(super) fn length(&self) -> u64 {
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

// === the whole ===

/// Bytes of the tar of `files`.
pub(super) fn total(files: &[File]) -> u64 {
    files.iter().map(File::length).sum::<u64>() + END_OF_ARCHIVE
}

/// Names the bytes of the whole tar: every header has its file's path and length, a blob's path has its
/// digest, and what else there is counts itself.
pub(super) fn etag(files: &[File]) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for file in files {
        hasher.update(&file.header);
        if let Content::Memory(bytes) = &file.content {
            hasher.update(bytes);
        }
    }
    format!("\"{}\"", &hasher.finish().hex()[..ETAG])
}

/// The bytes `start..end` (exclusive) of the tar of `files`.
pub(super) fn body(files: Vec<File>, start: u64, end: u64) -> Body {
    let mut parts = Vec::new();
    let mut at = 0;
    for file in files {
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

const BLOCK: u64 = 512;
const END_OF_ARCHIVE: u64 = 1024;
/// Hexadecimal digits of an entity tag: 128 bits of the hash.
const ETAG: usize = 32;
