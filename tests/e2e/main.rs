//! End to end: real container clients, the real gateway, a real registry behind names that exist nowhere else.
//!
//! A test builds a [`world::World`] (registries, token service, CDN), starts the gateway against it, and
//! hands its proxy address and CA to a [`machine::Machine`]: a mount namespace in which no name resolves.
//! What a machine pulls has come through the gateway or not at all. The tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod backend;
mod clients;
mod gateway;
mod image;
mod machine;
mod process;
#[path = "../support/secrets.rs"]
#[allow(dead_code, reason = "the integration tests use all of it")]
mod secrets;
mod upstream;
mod world;

mod admin;
mod bounds;
mod carry;
mod chain;
mod container;
mod debian;
mod freshness;
mod mirror;
mod parent;
mod plain;
mod private;
mod pulls;
mod push;
mod robot;
mod setup;
mod slow;
mod tokens;
mod trust;
mod users;
mod weather;
