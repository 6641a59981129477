//! pierhead: a forward HTTP(S) proxy with transparent container-registry caching.
//!
//! # Life of a request
//!
//! A client connects ([`listen`]) and asks for a host; [`policy`] decides; [`connect`] tunnels,
//! refuses, or terminates TLS with a leaf from [`tls`]; [`registry`] reads the request in the words of
//! [`oci`], asks its door whether this caller may see the content, and answers from the [`cache`],
//! which reads the [`store`] or follows a download that [`upstream`] feeds. Data flows in that
//! direction only; no room imports one before it (`tests/it/architecture.rs`, `docs/architecture.md`).
//!
//! The rooms stand below in that order: each may use those after it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

// Blank lines keep the order from being sorted away.

// === what is typed, and what then runs ===

pub mod cli; // the command line

pub mod doctor; // a client machine's way to an image, and what to mend

pub mod app; // config to a running gateway

pub mod config; // the file and the environment, parsed into each room's own terms

// === the ways in ===

pub mod listen; // socket to connection

pub mod admin; // the listener of those who run the gateway

pub mod connect; // verdict to bytes: tunnel, forward, intercept

pub mod setup; // facts to a script that sets a client machine up: pure

// === what is answered ===

pub mod warm; // images that are pulled before anybody asks

pub mod carry; // images across an air gap: one file out, one file in

pub mod registry; // request to response: the registry rules and the door to the cache

pub mod cache; // request to bytes, once: downloads, their followers, the index, the bound

pub mod store; // bytes at rest

pub mod upstream; // the network beyond: dialling, redirects, tokens

// === what they judge and speak by ===

pub mod tls; // the CA, its leaves, the roots that are trusted upstream

pub mod users; // name and password to user: who may use the proxy

pub mod policy; // connection to verdict: pure

pub mod telemetry; // metrics, logs and spans

pub mod oci; // the vocabulary of registries

pub mod wire; // the vocabulary of the wire
