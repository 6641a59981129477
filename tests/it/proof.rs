//! What counts as upstream's yes: the content itself, and no redirect, no page, no answer to something
//! else.

use hyper::Method;

use crate::{
    access::private,
    support::{Client, Fault, Gate, Gateway, Image, On, Repo, Upstream, pull::ACCEPT_ALL},
};

/// What a registry that hides behind a login says to whoever has none.
pub(crate) fn pages() -> Vec<(&'static str, Fault)> {
    let login = || vec![("location", "https://login.test/".to_owned())];
    vec![
        ("a page", Fault::Html),
        ("a page without a length", Fault::Page("text/html")),
        ("a page, elsewhere", Fault::Status(302, login(), "")),
        (
            "a page, for good elsewhere",
            Fault::Status(307, login(), ""),
        ),
    ]
}

/// A private image, and a registry `open.test` that is not told what to say to anybody.
pub(crate) async fn two_registries() -> (Upstream, Image, Repo) {
    let (up, _, image) = private().await;
    let other = up.repo("open.test", "team/app");
    login_page(&up);
    up.page("cdn.test", "/elsewhere", "text/plain", b"not this");
    (up, image, other)
}

pub(crate) fn login_page(up: &Upstream) {
    let page = b"<!DOCTYPE html><html><body>Who are you?</body></html>";
    up.page("login.test", "/", "text/html; charset=utf-8", page);
}

/// Asserts that nobody is shown anything of what alice pulled in another registry, which says `fault` to
/// all.
pub(crate) async fn assert_no_proof_elsewhere(case: &str, fault: Fault) {
    let (up, image, other) = two_registries().await;
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&image).await;
    up.fault(On::any("/v2/").at("open.test").always(), fault);
    assert_shown_nothing(&gateway.client(), &other, &image, case).await;
}

/// A private image that alice has pulled, and its registry says `fault` to whoever has no login.
pub(crate) async fn pulled_before(fault: Fault) -> (Upstream, Image, Gateway, Client) {
    let (up, _, image) = private().await;
    login_page(&up);
    let strangers = On::any("/v2/").at("registry.test").stranger();
    up.fault(strangers.always(), fault);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    // Her pull asks on everybody's behalf as well, and gets the same.
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&image).await;
    (up, image, gateway, alice)
}

/// Asserts that a stranger does not follow alice's download where the other registry redirects to
/// `place`.
pub(crate) async fn assert_no_stranger_follows(place: &str) {
    let (up, image, other) = two_registries().await;
    let layer = &image.layers[0];
    let gate = Gate::new();
    let stall = Fault::StallAt(100_000, gate.clone());
    up.fault(On::get(&layer.digest).at("registry.test"), stall);
    let away = vec![("location", place.to_owned())];
    up.fault(
        On::any("/blobs/").at("open.test").always(),
        Fault::Status(307, away, ""),
    );
    let gateway = Gateway::before(&up).start().await;
    let alice = gateway.client().basic("alice", "a-secret");
    let hers = alice.get(&image.repo.blob_url(&layer.digest)).send().await;
    gate.arrived(1).await;
    for repo in [&other, &image.repo] {
        let url = repo.blob_url(&layer.digest);
        let reply = gateway.client().get(&url).send().await;
        assert!(reply.status >= 400, "{url}: {}", reply.status);
    }
    gate.open();
    hers.verified(&layer.digest).await;
}

/// Asserts that `client` is shown nothing of the image in `repo`, by any way of asking.
pub(crate) async fn assert_shown_nothing(client: &Client, repo: &Repo, image: &Image, case: &str) {
    let mut urls = vec![repo.manifest_url(&image.manifest.digest)];
    urls.extend(image.blobs().map(|blob| repo.blob_url(&blob.digest)));
    if repo.host == image.repo.host {
        urls.push(image.by_tag());
    }
    // A range may open the door first, or a HEAD.
    for range in [Some("bytes=0-3"), None] {
        for method in [Method::GET, Method::HEAD] {
            for url in &urls {
                let mut ask = client.ask(method.clone(), url);
                for line in ACCEPT_ALL {
                    ask = ask.header("accept", line);
                }
                if let Some(range) = range {
                    ask = ask.header("range", range);
                }
                let reply = ask.send().await;
                let (status, hit) = (reply.status, reply.cache_status().to_owned());
                assert!(status >= 400, "{case}: {method} {url}: {status} {hit}");
            }
        }
    }
}

#[tokio::test]
async fn a_redirect_of_another_registry_is_no_proof() {
    let places = [
        "https://cdn.test/nothing-here",
        "https://login.test/",
        "/login",
    ];
    for place in places {
        let (up, image, other) = two_registries().await;
        let gateway = Gateway::before(&up).start().await;
        let alice = gateway.client().basic("alice", "a-secret");
        alice.pull(&image).await;
        let away = || Fault::Status(307, vec![("location", place.to_owned())], "");
        up.fault(On::any("/blobs/").at("open.test").always(), away());
        up.fault(On::any("/manifests/").at("open.test").always(), away());
        for client in [gateway.client(), gateway.client().basic("bob", "b-secret")] {
            assert_shown_nothing(&client, &other, &image, place).await;
        }
        // Nor has it become one for later.
        up.stop().await;
        assert_shown_nothing(&gateway.client(), &other, &image, place).await;
    }
}

#[tokio::test]
async fn a_page_of_another_registry_is_no_proof() {
    for (case, fault) in pages() {
        assert_no_proof_elsewhere(case, fault).await;
    }
}

#[tokio::test]
async fn a_redirect_does_not_let_a_stranger_follow_a_download() {
    assert_no_stranger_follows("https://cdn.test/nothing-here").await;
}

#[tokio::test]
async fn a_page_for_strangers_lets_none_of_them_see_what_is_cached() {
    for (case, fault) in pages() {
        let (up, image, gateway, alice) = pulled_before(fault).await;
        let nobody = gateway.client();
        assert_shown_nothing(&nobody, &image.repo, &image, case).await;
        alice.pull(&image).await;
        up.stop().await;
        assert_shown_nothing(&nobody, &image.repo, &image, case).await;
        alice.pull(&image).await;
    }
}
