//! Lists and uploads of a registry behind a `url`, or asked through the mirror endpoint: what their
//! answers lead to is the gateway again.

use hyper::Method;

use crate::support::{Fault, Gateway, On, Upstream, client::direct};

const PUSH: &str = "push = \"allow\"\nurl = \"https://inner.test/registry\"";

/// A registry that clients call registry.test, and that calls itself inner.test/registry.
async fn inner() -> (Upstream, Gateway) {
    let up = Upstream::start().await;
    up.page("inner.test", "/registry/v2/", "application/json", b"{}");
    for (path, name, value) in [
        (
            "/registry/v2/app/tags/list",
            "link",
            "</registry/v2/app/tags/list?last=b&n=2>; rel=\"next\"",
        ),
        (
            "/registry/v2/_catalog",
            "link",
            "<https://inner.test/registry/v2/_catalog?last=b&n=2>; rel=\"next\"",
        ),
        (
            "/registry/v2/app/referrers/",
            "link",
            "<https://inner.test/registry/v2/app/referrers/x?last=b>; rel=\"next\"",
        ),
        (
            "/registry/v2/app/blobs/uploads/",
            "location",
            "https://inner.test/registry/v2/app/blobs/uploads/1?state=x",
        ),
    ] {
        let status = if name == "location" { 202 } else { 200 };
        let answer = Fault::Status(status, vec![(name, value.to_owned())], "{}");
        up.fault(On::any(path).always(), answer);
    }
    let gateway = Gateway::before(&up).registry("registry.test", PUSH);
    (up, gateway.start().await)
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[tokio::test]
async fn behind_a_url_lists_and_uploads_lead_back_through_the_gateway() {
    let (_up, gateway) = inner().await;
    let client = gateway.client();
    let referrers = format!("app/referrers/{DIGEST}");
    for (path, link) in [
        (
            "app/tags/list?n=2",
            "</v2/app/tags/list?last=b&n=2>; rel=\"next\"",
        ),
        ("_catalog?n=2", "</v2/_catalog?last=b&n=2>; rel=\"next\""),
        (
            referrers.as_str(),
            "</v2/app/referrers/x?last=b>; rel=\"next\"",
        ),
    ] {
        let url = format!("https://registry.test/v2/{path}");
        let reply = client.get(&url).send().await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("link"), link);
    }
    let url = "https://registry.test/v2/app/blobs/uploads/";
    let reply = client.ask(Method::POST, url).send().await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.header("location"), "/v2/app/blobs/uploads/1?state=x");
}

#[tokio::test]
async fn through_the_mirror_endpoint_a_list_goes_on_in_the_clients_own_words() {
    let (_up, gateway) = inner().await;
    for (path, link) in [
        (
            "/v2/registry.test/app/tags/list?n=2",
            "</v2/registry.test/app/tags/list?last=b&n=2>; rel=\"next\"",
        ),
        (
            "/v2/registry.test/_catalog?n=2",
            "</v2/registry.test/_catalog?last=b&n=2>; rel=\"next\"",
        ),
    ] {
        let reply = direct(gateway.proxy, Method::GET, path, &[]).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("link"), link);
    }
}

#[tokio::test]
async fn what_is_asked_at_its_own_address_is_left_as_it_is() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let link = "</v2/app/tags/list?last=b&n=2>; rel=\"next\"";
    up.fault(
        On::get("/v2/app/tags/list"),
        Fault::Status(200, vec![("link", link.to_owned())], "{}"),
    );
    let gateway = Gateway::before(&up).start().await;
    let url = "https://registry.test/v2/app/tags/list?n=2";
    let reply = gateway.client().get(url).send().await;
    assert_eq!(reply.header("link"), link);
}

#[tokio::test]
async fn a_url_is_asked_just_what_its_registry_would_be_and_told_which_one_is_meant() {
    let (up, gateway) = inner().await;
    let client = gateway.client();
    for path in ["", "app/tags/list?n=2", "_catalog"] {
        let url = format!("https://registry.test/v2/{path}");
        assert_eq!(client.get(&url).send().await.status, 200, "{path}");
    }
    let seen = up.seen();
    assert!(!seen.is_empty());
    for seen in seen {
        assert!(["", "n=2"].contains(&seen.query.as_str()), "{seen:?}");
        let said = &seen.headers["forwarded"];
        assert_eq!(said, "by=_pierhead;host=\"registry.test\"", "{seen:?}");
    }
}

#[tokio::test]
async fn the_mirror_endpoint_hears_which_registry_another_gateway_means() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 71, &[10]);
    let gateway = Gateway::before(&up).start().await;
    let path = format!("/v2/app/manifests/{}", image.manifest.digest);
    let said = [("forwarded", "by=_pierhead;host=\"registry.test\"")];
    let reply = direct(gateway.proxy, Method::GET, &path, &said).await;
    reply.verified(&image.manifest.digest).await;
    for seen in up.seen() {
        assert!(!seen.headers.contains_key("forwarded"), "{seen:?}");
    }
    let unknown = [("forwarded", "by=_pierhead;host=\"elsewhere.test\"")];
    let reply = direct(gateway.proxy, Method::GET, &path, &unknown).await;
    assert_eq!(reply.status, 404);
    assert!(reply.text().await.contains("elsewhere.test"));
}
