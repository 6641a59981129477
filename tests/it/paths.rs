//! A path means one thing: what is decided about it here must hold however upstream reads it.

use hyper::Method;

use crate::support::{Client, Gateway, Upstream, wire};

const OTHER_SPELLINGS: [&str; 12] = [
    "//v2/",
    "///v2/",
    "/x/../v2/",
    "/./v2/",
    "/v2/../v2/",
    "/%2e%2e/v2/",
    "/%2E/v2/",
    "/x/%2e%2e/v2/",
    "/V2/",
    "/%762/",
    "/%2fv2/",
    "/v2/./",
];

/// Sends `method` for this very path, by each of the ways in.
async fn statuses(client: &Client, method: &Method, host: &str, path: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    let h2 = client.clone().h2();
    for (client, scheme) in [(client, "https"), (&h2, "https"), (client, "http")] {
        let url = format!("{scheme}://{host}{path}");
        let reply = client.ask(method.clone(), &url).send().await;
        statuses.push(reply.status);
    }
    statuses
}

#[tokio::test]
async fn v2_in_another_spelling_is_400_and_goes_nowhere() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app").image("latest", 1, &[10]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    for prefix in OTHER_SPELLINGS {
        for rest in ["", "app/manifests/latest", "app/tags/list", "_catalog"] {
            let path = format!("{prefix}{rest}");
            let got = statuses(&client, &Method::GET, "registry.test", &path).await;
            assert_eq!(got, [400, 400, 400], "{path}");
        }
    }
    let url = "https://registry.test//v2/app/tags/list";
    let (_, message) = client.get(url).send().await.oci_error().await;
    assert!(message.contains("//v2/app/tags/list"), "{message}");
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
}

#[tokio::test]
async fn a_backslash_is_no_slash() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).start().await;
    for path in ["\\v2\\app\\tags\\list", "/v2\\app/tags/list", "/%5cv2/"] {
        let head = format!(
            "GET http://registry.test{path} HTTP/1.1\r\nHost: registry.test\r\nConnection: close\r\n\r\n"
        );
        let answer = wire::exchange(gateway.proxy, head.as_bytes()).await;
        let status = wire::Raw::parse(&answer).map(|raw| raw.status);
        assert_eq!(status, Some(400), "{path}");
    }
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
}

#[tokio::test]
async fn a_push_is_refused_in_every_spelling() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app").image("latest", 2, &[10]);
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    for prefix in OTHER_SPELLINGS {
        for (method, rest) in [
            (Method::POST, "app/blobs/uploads/"),
            (Method::PUT, "app/manifests/latest"),
            (Method::DELETE, "app/manifests/latest"),
        ] {
            let path = format!("{prefix}{rest}");
            for status in statuses(&client, &method, "registry.test", &path).await {
                assert!(matches!(status, 400 | 403), "{method} {path}: {status}");
            }
        }
    }
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
}

#[tokio::test]
async fn a_denied_repository_is_denied_in_every_spelling() {
    let up = Upstream::start().await;
    let open = up.repo("registry.test", "open/app").image("v1", 3, &[10]);
    let secret = up.repo("registry.test", "secret/app");
    let image = secret.image("v1", 4, &[10]);
    let deny = r#"deny_repositories = ["secret/*"]"#;
    let gateway = Gateway::before(&up)
        .registry("registry.test", deny)
        .start()
        .await;
    let client = gateway.client();
    client.pull(&open).await;
    let before = up.requests();
    let names = [
        "secret/app",
        "secret//app",
        "/secret/app",
        "./secret/app",
        "open/../secret/app",
        "open/%2e%2e/secret/app",
        "open%2f..%2fsecret/app",
        "%73ecret/app",
        "secret%2Fapp",
        "Secret/app",
    ];
    let digest = &image.layers[0].digest;
    for name in names {
        for rest in [
            "manifests/v1".to_owned(),
            format!("blobs/{digest}"),
            "tags/list".to_owned(),
            format!("referrers/{}", image.manifest.digest),
            "blobs/uploads/".to_owned(),
        ] {
            let path = format!("/v2/{name}/{rest}");
            for status in statuses(&client, &Method::GET, "registry.test", &path).await {
                assert!(matches!(status, 400 | 403), "{path}: {status}");
            }
        }
    }
    for prefix in OTHER_SPELLINGS {
        let path = format!("{prefix}secret/app/manifests/v1");
        let got = statuses(&client, &Method::GET, "registry.test", &path).await;
        assert_eq!(got, [400, 400, 400], "{path}");
    }
    assert_eq!(up.requests(), before, "{:?}", &up.seen()[before..]);
}

#[tokio::test]
async fn of_a_host_that_does_more_than_give_tokens_only_that_is_open() {
    let up = Upstream::start().await;
    for path in ["/jwt/auth", "/api", "/jwt/authority", "/jwt/auth/../../api"] {
        up.page("gitlab.com", path, "application/json", b"{}");
    }
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    for path in [
        "/jwt/auth/../../api",
        "/jwt/auth/..%2f..%2fapi",
        "/jwt/auth/%2e%2e/%2e%2e/api",
        "/jwt/auth\\..\\api",
        "/jwt/authority",
        "/jwt/auth%2f",
        "/jwt//auth",
        "/jwt",
        "/api",
        "/",
        "/v2/",
        "//jwt/auth",
    ] {
        let Ok(uri) = format!("https://gitlab.com{path}").parse::<hyper::Uri>() else {
            continue;
        };
        let reply = client.get(&uri.to_string()).send().await;
        assert!(
            matches!(reply.status, 400 | 403),
            "{path}: {}",
            reply.status
        );
        reply.oci_error().await;
    }
    assert_eq!(up.requests(), 0, "{:?}", up.seen());
    let url = "https://gitlab.com/jwt/auth?service=container_registry";
    assert_eq!(client.get(url).send().await.status, 200);
}
