//! What an object is called: its kind and its digest.

use crate::oci::digest::{Algorithm, Digest};

/// What an object is, and so which folder holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Blob,
    Manifest,
}

/// An object's name in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub digest: Digest,
}

// === impl Kind ===

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Blob, Self::Manifest];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Manifest => "manifests",
        }
    }
}

// === impl Key ===

impl Key {
    pub fn blob(digest: &Digest) -> Self {
        Self {
            kind: Kind::Blob,
            digest: digest.clone(),
        }
    }

    pub fn manifest(digest: &Digest) -> Self {
        Self {
            kind: Kind::Manifest,
            digest: digest.clone(),
        }
    }

    /// A compact form for the index: kind, algorithm, raw digest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![
            match self.kind {
                Kind::Blob => b'b',
                Kind::Manifest => b'm',
            },
            match self.digest.algorithm() {
                Algorithm::Sha256 => 2,
                Algorithm::Sha512 => 5,
            },
        ];
        out.extend(self.digest.raw());
        out
    }

    /// The inverse of [`Key::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, raw) = bytes.split_at_checked(2)?;
        let kind = match head[0] {
            b'b' => Kind::Blob,
            b'm' => Kind::Manifest,
            _ => return None,
        };
        let algorithm = match head[1] {
            2 => Algorithm::Sha256,
            5 => Algorithm::Sha512,
            _ => return None,
        };
        Some(Self {
            kind,
            digest: Digest::from_raw(algorithm, raw)?,
        })
    }
}
