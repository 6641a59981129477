//! What the parts of a hit cost by themselves, in time: what is read of every request, and what is signed
//! and hashed. `cargo bench --bench parts`, with a filter for single ones.

#![allow(clippy::unwrap_used, reason = "a benchmark fails loudly")]

use divan::{Bencher, black_box, counter::BytesCount};
use pierhead::oci::{
    accept::Accept,
    challenge,
    digest::{Algorithm, Digest},
    manifest::Children,
    range::Wanted,
    route::Route,
};

fn main() {
    divan::main();
}

const SHA: &str = "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1";

#[divan::bench(args = ["/v2/", "/v2/library/alpine/manifests/3", "/v2/library/alpine/blobs/sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1"])]
fn route(path: &str) -> bool {
    Route::parse(black_box(path)).is_ok()
}

#[divan::bench]
fn digest_from_text() -> Digest {
    black_box(SHA).parse().unwrap()
}

#[divan::bench(args = ["bytes=0-1023", "bytes=-512", "bytes=1048576-"])]
fn range(header: &str) -> Wanted {
    Wanted::parse(Some(black_box(header)), 1 << 30)
}

/// What dockerd sends: a line for each type that it knows.
#[divan::bench]
fn accept_of_dockerd() -> bool {
    let lines = [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
    ];
    Accept::from_headers(black_box(lines).into_iter())
        .allows("application/vnd.oci.image.index.v1+json")
}

#[divan::bench]
fn challenge_of_a_registry() -> usize {
    let said = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                scope=\"repository:library/alpine:pull\",error=\"invalid_token\"";
    challenge::parse_all(std::iter::once(black_box(said))).len()
}

/// By the number of platforms.
#[divan::bench(args = [1, 8, 64])]
fn children_of_an_index(bencher: Bencher, platforms: usize) {
    let each = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{SHA}","size":1024,"platform":{{"architecture":"amd64","os":"linux"}}}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        vec![each; platforms].join(",")
    );
    bencher
        .counter(BytesCount::of_str(&index))
        .bench(|| Children::parse(black_box(index.as_bytes())).iter().count());
}

/// By the size of what was read at once.
#[divan::bench(args = [4 << 10, 64 << 10, 1 << 20])]
fn sha256(bencher: Bencher, size: usize) {
    let bytes = vec![7; size];
    bencher
        .counter(BytesCount::new(size))
        .bench(|| Digest::of(Algorithm::Sha256, black_box(&bytes)));
}
