//! What the gateway tells about itself: metrics and logs.

pub mod access;
pub mod build;
pub mod log;
pub mod metrics;
