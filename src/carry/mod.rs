//! Images across an air gap: an OCI image layout (image specification, "Image Layout") in one tar, that
//! skopeo, podman and docker load and another gateway takes in.
//!
//! What is sent out is the same to the byte each time it is asked for, and its length is known before
//! its first byte: a transfer that broke goes on with `Range` where it stopped. What comes in is hashed
//! before it is kept, whoever made the file.

mod export;
mod import;
mod layout;
mod tar;
mod walk;

pub use self::export::{Export, Missing, Root, Wants};
pub use self::import::{Image, ImportError, Imported, import};
