//! The vocabulary of container registries: pure types, parsed once and trusted from then on.
//!
//! Nothing here does I/O, and nothing here imports another room.

/// `Accept`, all header lines as one canonical list.
pub mod accept;
/// `WWW-Authenticate`: how a registry asks for credentials.
pub mod challenge;
/// Content digests, and the hashers that make them.
pub mod digest;
/// The error codes of the distribution specification and their JSON.
pub mod error;
/// Just enough of a manifest or an index to know its type and its children.
pub mod manifest;
/// Image names as people write them.
pub mod name;
mod quoted;
/// `Range` and `Content-Range` in bytes.
pub mod range;
/// Repository names, tags and references.
pub mod reference;
/// A request path to the registry endpoint that it names.
pub mod route;
