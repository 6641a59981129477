//! Answers of 200 that are not about the content are no proof of access to it.

use hyper::Method;

use crate::{
    proof::{
        assert_no_proof_elsewhere, assert_no_stranger_follows, assert_shown_nothing, pages,
        pulled_before, two_registries,
    },
    support::{Fault, Gateway, On},
};

/// Pages that do not say that they are HTML.
fn other_pages() -> [(&'static str, Fault); 3] {
    let json = vec![("content-type", "application/json".to_owned())];
    let body = r#"{"error":"please log in"}"#;
    [
        ("a text without a length", Fault::Page("text/plain")),
        ("JSON without a length", Fault::Page("application/json")),
        ("JSON", Fault::Status(200, json, body)),
    ]
}

#[tokio::test]
async fn an_unnamed_document_of_another_registry_is_no_proof() {
    for (case, fault) in other_pages() {
        assert_no_proof_elsewhere(case, fault).await;
    }
}

#[tokio::test]
async fn an_unnamed_document_for_strangers_is_no_proof() {
    for (case, fault) in other_pages() {
        let (_up, image, gateway, _) = pulled_before(fault).await;
        assert_shown_nothing(&gateway.client(), &image.repo, &image, case).await;
    }
}

#[tokio::test]
async fn a_redirect_to_something_does_not_let_a_stranger_follow_a_download() {
    assert_no_stranger_follows("https://cdn.test/elsewhere").await;
}

#[tokio::test]
async fn a_page_for_a_manifest_that_is_not_cached_opens_nothing() {
    for (case, fault) in pages() {
        let (_up, image, gateway, _) = pulled_before(fault).await;
        let nobody = gateway.client();
        let unknown = crate::support::content::sha256(b"never pulled");
        for url in [
            image.repo.manifest_url(&unknown),
            image.repo.manifest_url("other-tag"),
            image.repo.blob_url(&unknown),
        ] {
            for method in [Method::HEAD, Method::GET] {
                let _ = nobody.ask(method, &url).send().await.rest().await;
            }
        }
        assert_shown_nothing(&nobody, &image.repo, &image, case).await;
    }
}

/// Now and then: while the index does not know the object yet, its size is compared with nothing.
#[tokio::test]
async fn a_redirect_of_another_registry_to_something_is_no_proof() {
    let place = "https://cdn.test/elsewhere";
    for _ in 0..8 {
        let (up, image, other) = two_registries().await;
        let gateway = Gateway::before(&up).start().await;
        let alice = gateway.client().basic("alice", "a-secret");
        let away = || Fault::Status(307, vec![("location", place.to_owned())], "");
        up.fault(On::any("/blobs/").at("open.test").always(), away());
        for blob in image.blobs() {
            let hers = alice.get(&image.repo.blob_url(&blob.digest)).send().await;
            hers.verified(&blob.digest).await;
            let url = other.blob_url(&blob.digest);
            let reply = gateway.client().get(&url).send().await;
            assert!(reply.status >= 400, "{url}: {}", reply.status);
        }
    }
}
