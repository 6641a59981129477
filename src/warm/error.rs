//! Why an image could not be pulled.

use crate::oci::digest::Digest;
use crate::oci::manifest::{ManifestError, Platform};

/// Why an image could not be pulled, in words for who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    #[error(
        "{registry} is no registry that is cached here; [[registry]] host = \"{registry}\" would make it one"
    )]
    NotCached { registry: String },
    #[error("{registry} is not cached: {reason}")]
    Denied { registry: String, reason: String },
    /// The registry's answer, or the gateway's own.
    #[error("{what}: {status} {message}")]
    Refused {
        what: String,
        status: u16,
        message: String,
    },
    #[error("{what} broke off: {reason}")]
    Broken { what: String, reason: String },
    #[error(
        "the cache did not keep {digest}; the gateway's log says why: no room within cache.max_size beside what is pinned, or a disk that is full or takes nothing"
    )]
    NoRoom { digest: Digest },
    #[error("{digest} is no manifest that can be followed: {source}")]
    Manifest {
        digest: Digest,
        source: ManifestError,
    },
    #[error(
        "{what} is of {media_type}, which is relayed but never cached; push the image anew with a client of this decade"
    )]
    TooOld { what: String, media_type: String },
    #[error("{image} has no image for {wanted}; it has {offered}")]
    NoPlatform {
        image: String,
        wanted: String,
        offered: String,
    },
    #[error(
        "{image} is one image, for {offered}, and does not match the specified platform: {wanted}"
    )]
    OtherPlatform {
        image: String,
        wanted: String,
        offered: Platform,
    },
    #[error(
        "{image} could not be confirmed: its registry is away or not well, and what it said last is kept"
    )]
    Unconfirmed { image: String },
    #[error("indexes within indexes, more than {0} deep")]
    TooDeep(usize),
}
