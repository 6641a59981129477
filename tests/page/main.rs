//! The page as people have it: the real gateway before a scripted upstream, seen in real Chromium.
//!
//! A test brings a state about ([`gallery`]) and hands the page's address to a script of `scripts/`,
//! which drives the browser ([`browser`]) and fails as it finds something wrong. The scripts need the
//! npm packages that `scripts/test` puts into `target/browser`, and root: a browser and all that it
//! starts live in a PID namespace, and end with the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod browser;
mod gallery;
mod strangers;
mod views;
