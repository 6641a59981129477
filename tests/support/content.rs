//! Bytes that no other blob has, and their digests.

use std::fmt::Write as _;

use bytes::Bytes;
use sha2::{Digest as _, Sha256, Sha512};

/// Bytes together with the digest a registry knows them by.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: String,
    pub bytes: Bytes,
}

/// `len` bytes that look random, the same ones for the same `seed`.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

/// `sha256:` and the hash of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha512:` and the hash of `bytes`, in hex.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// The digest of `bytes` in the algorithm that `like` uses.
pub fn digest_like(like: &str, bytes: &[u8]) -> String {
    if like.starts_with("sha512:") {
        sha512(bytes)
    } else {
        sha256(bytes)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

// === impl Blob ===

impl Blob {
    /// `len` bytes of [`noise`], under their sha256.
    pub fn noise(seed: u64, len: usize) -> Self {
        Self::of(noise(seed, len))
    }

    /// `bytes` under their sha256.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            bytes,
        }
    }

    /// `bytes` under their sha512.
    pub fn of_sha512(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha512(&bytes),
            bytes,
        }
    }

    /// How long it is, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
