//! The fault matrix: what may go wrong upstream, at each step of a pull, with the cache in each
//! state, for clients of HTTP/1.1 and of h2. Generated, not picked.
//!
//! Whatever goes wrong: what a client takes for complete is what the digest says; every client comes
//! to an end; and afterwards nothing of it is left but what is right. What the gateway promises to
//! answer in spite of it, it must answer.
//!
//! * `PIERHEAD_MATRIX_CASE=cold/blob` runs the cases whose names contain that.
//! * `PIERHEAD_MATRIX_SEED=7` draws other offsets and other variants; the seed in use is printed.
//! * `PIERHEAD_MATRIX=most` runs eight times as many as are run without: some minutes.
//! * `PIERHEAD_MATRIX=full` runs every case, and with both protocols; without, those that say least (what
//!   is warm and fresh asks nothing of upstream) run by turns, which the seed decides.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod after;
mod case;
mod judge;
mod pull;
mod run;
mod table;
mod trouble;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_makes_it_serve_a_wrong_byte_or_keep_anybody_waiting() {
    run::all(case::all()).await;
}
