//! Which build this is.

/// The version in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as git abbreviates it; `-dirty` follows where the sources differed
/// from it, and `unknown` stands for a build outside of git. Set by `scripts/build.rs`.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// Both, as `--version` says them.
pub const NAME: &str = concat!(
    "pierhead ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BUILD_COMMIT"),
    ")"
);

/// The JSON of `/healthz`, a line.
pub fn health() -> String {
    format!("{{\"status\":\"ok\",\"version\":\"{VERSION}\",\"commit\":\"{COMMIT}\"}}\n")
}
