//! What the integration tests stand on.
//!
//! * [`upstream::Upstream`]: registries, token services, CDNs and plain web pages behind one real
//!   socket, with a certificate for any name, a record of every request, and a script of faults.
//! * [`gateway::Gateway`]: the real binary, started on a free port with a configuration of its own,
//!   its banner read, its logs followed; killed when dropped, and then everything it told is
//!   searched for every password and token of the test ([`secrets`]).
//! * [`client::Client`]: what a container client does: CONNECT, TLS that trusts the gateway's CA
//!   alone, and a body that is read only when the test says so.
//! * [`gate::Gate`]: how a test holds something back and lets it go; there are no sleeps.
//!
//! Nothing here knows the program's code: everything goes through sockets, files and signals.

// The end-to-end tests use this folder too, and not every binary uses all of it.
#![allow(dead_code)]

pub mod authority;
pub mod client;
pub mod content;
pub mod echo;
pub mod fault;
pub mod gate;
pub mod gateway;
pub mod image;
pub mod logs;
pub mod parent;
pub mod pull;
pub mod reply;
pub mod secrets;
pub mod setup;
pub mod shim;
pub mod upstream;
pub mod wire;

use std::{future::Future, panic::Location, time::Duration};

pub use client::Client;
pub use content::Blob;
pub use fault::{Fault, On};
pub use gate::Gate;
pub use gateway::Gateway;
pub use image::{Image, Manifest, Repo};
pub use reply::Reply;
pub use setup::Setup;
pub use upstream::Upstream;

/// Waits for `future`, and fails the test where it was called when that takes longer than
/// `seconds`.
#[track_caller]
pub fn within<F: Future>(seconds: u64, future: F) -> impl Future<Output = F::Output> {
    let at = Location::caller();
    async move {
        match tokio::time::timeout(Duration::from_secs(seconds), future).await {
            Ok(value) => value,
            Err(_) => panic!("still waiting after {seconds} s, at {at}"),
        }
    }
}

/// Looks again and again, for twenty seconds, until `holds` does.
///
/// Only for what announces itself in no other way, such as a file that goes away: a test that can
/// wait for a request, a log line or a gate waits for that.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let at = Location::caller();
    let what = what.to_owned();
    async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..1000 {
            ticks.tick().await;
            if holds() {
                return;
            }
        }
        panic!("it never came to be that {what}, at {at}");
    }
}
