//! Pushes are refused, in the words of the specification, and with the way to allow them.

use hyper::Method;

use crate::support::{Client, Gateway, Image, Upstream};

async fn assert_push_refused(client: &Client, image: &Image) {
    let digest = &image.layers[0].digest;
    let upload = image.repo.url("blobs/uploads/");
    let cases = [
        (Method::POST, upload.clone()),
        (Method::POST, format!("{upload}?digest={digest}")),
        (Method::POST, format!("{upload}?mount={digest}&from=other")),
        (Method::PATCH, format!("{upload}some-session")),
        (Method::PUT, format!("{upload}some-session?digest={digest}")),
        (Method::PUT, image.repo.manifest_url("latest")),
        (Method::PUT, image.by_digest()),
        (Method::DELETE, image.by_digest()),
        (Method::DELETE, image.repo.blob_url(digest)),
    ];
    for (method, url) in cases {
        let reply = client
            .ask(method.clone(), &url)
            .body("some bytes")
            .send()
            .await;
        assert_eq!(reply.status, 403, "{method} {url}");
        let (code, message) = reply.oci_error().await;
        assert_eq!(code, "DENIED", "{method} {url}");
        assert!(
            message.contains("push"),
            "it does not say how to allow it: {message}"
        );
    }
}

#[tokio::test]
async fn a_push_is_denied_and_nothing_of_it_goes_upstream() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 1, &[100]);
    let gateway = Gateway::before(&up).start().await;
    assert_push_refused(&gateway.client(), &image).await;
    assert_push_refused(&gateway.client().h2(), &image).await;
    let methods: Vec<_> = up.seen().into_iter().map(|one| one.method).collect();
    let reading = |method: &Method| *method == Method::GET || *method == Method::HEAD;
    assert!(methods.iter().all(reading), "{methods:?}");
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn a_large_upload_is_denied_without_being_read_to_its_end() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 2, &[100]);
    let gateway = Gateway::before(&up).start().await;
    let body = crate::support::content::noise(3, 8 * 1024 * 1024);
    let url = image.repo.url("blobs/uploads/");
    let client = gateway.client();
    let sent = client.ask(Method::POST, &url).body(body).try_send().await;
    // The refusal may come while the client still sends, and some then only see the end.
    if let Ok(reply) = sent {
        assert_eq!(reply.status, 403);
    }
    gateway.client().pull(&image).await;
}
