//! Absolute-form requests: plain forwarding, and registries that speak plain http.

use hyper::Method;

use crate::support::{Gateway, Setup, Upstream};

fn open(up: &Upstream) -> Setup {
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]";
    Gateway::before(up).more(rule)
}

#[tokio::test]
async fn a_page_is_fetched_as_it_is() {
    let up = Upstream::start().await;
    let body = crate::support::content::noise(1, 300_000);
    up.page(
        "pages.test",
        "/debian/Packages.xz",
        "application/x-xz",
        &body,
    );
    let gateway = open(&up).start().await;
    let client = gateway.client();
    let url = "http://pages.test/debian/Packages.xz?x=1";
    let reply = client.get(url).header("x-own", "mine").send().await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, "application/x-xz")
    );
    assert_eq!(reply.bytes().await, body);
    let seen = up.seen();
    let seen = seen.last().unwrap();
    assert_eq!(
        (seen.host.as_str(), seen.query.as_str()),
        ("pages.test", "x=1")
    );
    assert_eq!(seen.header("x-own"), "mine");

    let part = client.get(url).header("range", "bytes=10-19").send().await;
    assert_eq!(part.status, 206);
    assert_eq!(part.bytes().await, body[10..20]);
    let head = client.head(url).send().await;
    assert_eq!(head.header("content-length"), body.len().to_string());
    let none = client.get("http://pages.test/none").send().await;
    assert_eq!(none.status, 404);
}

#[tokio::test]
async fn headers_that_are_for_this_hop_go_no_further() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let gateway = open(&up).start().await;
    let client = gateway.client();
    let ask = client
        .get("http://pages.test/")
        .header("proxy-authorization", "Basic eDp5");
    let ask = ask
        .header("proxy-connection", "keep-alive")
        .header("te", "gzip");
    let ask = ask
        .header("connection", "x-private")
        .header("x-private", "for the proxy");
    let ask = ask.header("authorization", "Basic Zm9yOnRoZW0=");
    assert_eq!(ask.send().await.text().await, "hello");
    let seen = up.seen();
    let seen = seen.last().unwrap();
    for name in ["proxy-authorization", "proxy-connection", "x-private", "te"] {
        assert_eq!(seen.header(name), "", "{name}");
    }
    assert_eq!(seen.header("authorization"), "Basic Zm9yOnRoZW0=");
}

#[tokio::test]
async fn other_methods_pass_with_their_bodies() {
    let up = Upstream::start().await;
    up.page("pages.test", "/form", "text/plain", b"thank you");
    let gateway = open(&up).start().await;
    let client = gateway.client();
    let reply = client
        .ask(Method::POST, "http://pages.test/form")
        .body("a=b&c=d")
        .send()
        .await;
    assert_eq!(reply.text().await, "thank you");
    let seen = up.seen();
    let seen = seen.last().unwrap();
    assert_eq!(
        (&seen.method, seen.header("content-length")),
        (&Method::POST, "7")
    );
}

#[tokio::test]
async fn one_connection_asks_several_hosts() {
    let up = Upstream::start().await;
    up.page("pages.test", "/a", "text/plain", b"a");
    up.page("other.pages.test", "/b", "text/plain", b"b");
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*.pages.test\"]";
    let gateway = open(&up).more(rule).start().await;
    let request = "GET http://pages.test/a HTTP/1.1\r\nHost: pages.test\r\n\r\n\
                   GET http://other.pages.test/b HTTP/1.1\r\nHost: other.pages.test\r\n\
                   Connection: close\r\n\r\n";
    let answers = crate::support::wire::exchange(gateway.proxy, request.as_bytes()).await;
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let hosts: Vec<_> = up.seen().into_iter().map(|one| one.host).collect();
    assert_eq!(hosts, ["pages.test", "other.pages.test"]);
}

#[tokio::test]
async fn the_target_of_the_request_is_what_counts_not_its_host_header() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"allowed");
    up.page("secret.test", "/", "text/plain", b"denied");
    let gateway = open(&up).start().await;
    let request =
        "GET http://pages.test/ HTTP/1.1\r\nHost: secret.test\r\nConnection: close\r\n\r\n";
    let answer = crate::support::wire::exchange(gateway.proxy, request.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(!answer.ends_with("denied"), "{answer}");
    assert!(up.seen().iter().all(|one| one.host != "secret.test"));
}

#[tokio::test]
async fn a_registry_without_tls_is_cached_too() {
    let up = Upstream::start().await;
    let image = up
        .repo("insecure.test", "app")
        .image("latest", 2, &[100_000, 10]);
    let gateway = Gateway::before(&up)
        .text("cache", "tag_ttl", "10m")
        .start()
        .await;
    let client = gateway.client();
    let insecure = |url: String| url.replacen("https://", "http://", 1);
    for _ in 0..2 {
        let reply = client
            .get(&insecure(image.by_tag()))
            .header("accept", "*/*")
            .send()
            .await;
        reply.verified(&image.manifest.digest).await;
        for blob in image.blobs() {
            let url = insecure(image.repo.blob_url(&blob.digest));
            client.get(&url).send().await.verified(&blob.digest).await;
        }
    }
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len(), "each byte once");
    }
}

#[tokio::test]
async fn a_head_is_answered_without_content_in_http2_too() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let gateway = Gateway::before(&up)
        .registry("registry.test", "deny_repositories = [\"secret/*\"]")
        .start()
        .await;
    for client in [gateway.client(), gateway.client().h2()] {
        for (path, status) in [("secret/a/manifests/x", 403), ("Bad!/manifests/x", 400)] {
            let url = format!("https://registry.test/v2/{path}");
            let got = client.get(&url).send().await;
            assert_eq!(got.status, status);
            let length = got.bytes().await.len().to_string();
            let head = client.head(&url).send().await;
            assert_eq!(head.status, status);
            assert_eq!(head.header("content-length"), length);
            assert_eq!(head.bytes().await, "");
        }
        up.stop().await;
        let ping = client.head("https://registry.test/v2/").send().await;
        assert_eq!(ping.status, 200);
        assert_eq!(ping.bytes().await, "");
        up.start_again().await;
    }
}
