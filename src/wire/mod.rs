//! The vocabulary of the wire that every room shares: one body type, header hygiene, waits that end,
//! and the orderly end of everything.

pub mod body;
pub mod buffer;
pub mod drain;
pub mod headers;
pub mod idle;
pub mod memory;
pub mod pace;
pub mod pipe;
pub mod shares;
pub mod socket;
pub mod streams;
pub mod turns;
