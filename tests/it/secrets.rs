//! Passwords and tokens stay with the gateway. Every test's gateway is searched when it ends; here is
//! shown that the search finds them, and what else keeps them in.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hyper::Method;

use crate::support::{
    Fault, Gateway, On, Upstream,
    secrets::{SHOWN, Secrets, Told},
};

/// A word that is a host, a tag and a folder's name as well.
const SECRET: &str = "s3cret-w0rd";

#[tokio::test]
async fn the_search_finds_what_is_told_in_every_place() {
    let up = Upstream::start().await;
    let host = format!("{SECRET}.test");
    let repo = up.repo(&host, "app");
    let image = repo.image(SECRET, 1, &[900]);
    // Its banner and its command line name the folder.
    let home = tempfile::Builder::new().prefix(SECRET).tempdir();
    let home = Arc::new(home.expect("a temporary directory"));
    let mut gateway = Gateway::before(&up).start_in(home).await;
    gateway.client().pull(&image).await;
    let denied = format!("{SECRET}.denied.test:443");
    gateway.client().try_connect(&denied).await;
    gateway
        .log
        .line(&format!("\"reference\":\"{SECRET}\""))
        .await;
    // The index is written a moment later, and an orderly end waits for it.
    gateway.secrets().add(SECRET);
    gateway.terminate().await;
    let found = gateway.told_secrets();
    for place in [
        "the log",
        "the banner",
        "the command line",
        "/metrics",
        "/images",
        "/live",
        "/api/v1/images",
        "/api/v1/live",
        "index.redb",
    ] {
        let told = |line: &&String| {
            let (place_and_before, _) = line.split_once(": …").expect("a place");
            place_and_before.ends_with(place)
        };
        assert!(found.iter().any(|line| told(&line)), "{place}: {found:?}");
    }
}

#[tokio::test]
async fn the_search_finds_a_login_in_base64() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let mut gateway = Gateway::before(&up).start().await;
    let pair = STANDARD_NO_PAD.encode("alice:open sesame");
    let reply = gateway.client().ask_manifest(&repo, &pair).await;
    assert_eq!(reply.status, 404);
    gateway.log.line(&pair).await;
    gateway.secrets().login("alice", "open sesame");
    assert!(!gateway.told_secrets().is_empty());
}

#[test]
fn the_search_knows_every_spelling() {
    let secrets = Secrets::default();
    secrets.authorization("Basic YWxpY2U6b3BlbiAic2VzYW1lIg=="); // alice:open "sesame"
    secrets.authorization("Bearer a-token-of-minutes");
    for text in [
        "with open \"sesame\" in it",
        r#"{"password":"open \"sesame\""}"#,
        "?password=open%20%22sesame%22&",
        "?password=open%20%22sesame%22&".to_lowercase().as_str(),
        "password=open+%22sesame%22",
        "Authorization: Basic YWxpY2U6b3BlbiAic2VzYW1lIg==",
        // Of other users with the same password: bob, bo and b.
        "Ym9iOm9wZW4gInNlc2FtZSI=",
        "Ym86b3BlbiAic2VzYW1lIg==",
        "YjpvcGVuICJzZXNhbWUi",
        "a-token-of-minutes",
    ] {
        let told = Told {
            place: "here".into(),
            text: text.to_owned(),
        };
        assert!(!secrets.found_in([&told]).is_empty(), "{text}");
    }
    let harmless = Told {
        place: "here".into(),
        text: "alice opens sesame".into(),
    };
    assert_eq!(secrets.found_in([&harmless]), Vec::<String>::new());
}

#[tokio::test]
async fn everything_that_the_admin_port_shows_is_searched() {
    let gateway = Gateway::alone().start().await;
    let described = crate::support::client::plain(gateway.admin, "/api/v1/openapi.json").await;
    let described: serde_json::Value = serde_json::from_str(&described.text().await).unwrap();
    // What streams, what makes a file, and what wants to be told which one.
    let other = [
        "/api/v1/events",
        "/api/v1/export",
        "/api/v1/blob",
        "/api/v1/image",
        "/api/v1/pulls/{id}",
    ];
    for (path, methods) in described["paths"].as_object().unwrap() {
        let reads = methods.get("get").is_some() && !other.contains(&path.as_str());
        assert!(
            !reads || SHOWN.contains(&path.as_str()),
            "{path} is not in SHOWN"
        );
    }
    for path in SHOWN {
        let reply = crate::support::client::plain(gateway.admin, path).await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_robots_login_is_not_sent_to_a_token_service_in_plain_http() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").user("robot", "r0b0t-pass");
    let repo = registry.bearer("auth.test").private_repo("app", &["robot"]);
    repo.image("v1", 5, &[700]);
    let challenge = "Bearer realm=\"http://auth.test/token\",service=\"registry.test\"";
    up.fault(
        On::any("/v2/app/").always(),
        Fault::Status(401, vec![("www-authenticate", challenge.to_owned())], "{}"),
    );
    let home = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(home.path().join("robot-password"), "r0b0t-pass\n").unwrap();
    let login = "auth = \"gateway\"\nusername = \"robot\"\npassword_file = \"robot-password\"";
    let gateway = Gateway::before(&up)
        .registry("registry.test", login)
        .start_in(home)
        .await;
    let reply = gateway.client().ask_manifest(&repo, "v1").await;
    assert_eq!(reply.status, 403);
    let told = reply.text().await;
    assert!(
        told.contains("plain http") && told.contains("http://auth.test"),
        "{told}"
    );
    assert_eq!(up.count(Method::GET, "/token"), 0, "{:?}", up.seen());
}

#[tokio::test]
async fn a_crash_leaves_no_core_with_passwords_in_it() {
    let gateway = Gateway::alone().start().await;
    let pid = gateway.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core: Vec<_> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{core:?}");
}
