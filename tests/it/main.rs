//! The gateway as its clients and its upstreams see it: the real binary between a real client and
//! a scripted upstream, one module per behaviour.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod architecture;
mod back;
mod bounds;
mod carry;
mod catalog;
mod clock;
mod commands;
mod config;
mod crash;
mod deny;
mod desk;
mod disk;
mod doctor;
mod documents;
mod drain;
mod follow;
mod health;
mod hostile;
mod http;
mod impostors;
mod kills;
mod lies;
mod limits;
mod login;
mod lookahead;
mod manual;
mod metrics;
mod mirror;
mod offline;
mod online;
mod openapi;
mod own_tls;
mod parallel;
mod parent;
mod paths;
mod pinned;
mod proof;
mod proxy_tls;
mod pull;
mod push;
mod ranges;
mod reload;
mod repositories;
mod resume;
mod robot;
mod secrets;
mod service;
mod shelf;
mod soak;
mod space;
mod spans;
mod ssrf;
mod tags;
mod tls;
mod tunnel;
mod untrusted;
mod users;
mod variants;
mod warm;
mod watch;
mod words;
