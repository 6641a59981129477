//! What the gateway tells about itself: metrics and logs.

pub mod access;
pub mod log;
pub mod metrics;
