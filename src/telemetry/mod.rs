//! What the gateway tells about itself: metrics and logs, what goes on now, and what was.

pub mod access;
mod batch;
pub mod build;
pub mod history;
mod line;
pub mod live;
pub mod log;
pub mod metrics;
pub mod spans;
