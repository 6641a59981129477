//! The clients, each with storage of its own.

mod containerd;
mod containers;
mod docker;

pub use containerd::Containerd;
pub use containers::{Podman, Skopeo, assert_holds};
pub use docker::Docker;
