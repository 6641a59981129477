//! The admin listener's door: who may look, who may change, and whose page it was that asked.

use hyper::Method;
use serde_json::Value;

use crate::support::{Blob, Fault, Gate, Gateway, On, Reply, Upstream, client, gateway, wire};

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

async fn post(gateway: &Gateway, path: &str, with: &[(&str, &str)]) -> Reply {
    client::direct(gateway.admin, Method::POST, path, with).await
}

/// The status of a GET with this `Host`.
async fn as_host(gateway: &Gateway, path: &str, host: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = wire::exchange(gateway.admin, request.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_change_is_made_for_our_own_page_and_for_no_page_but_for_no_other() {
    let gateway = Gateway::alone().start().await;
    let own = format!("http://{}", gateway.admin);
    for path in ["/api/v1/reload", "/actions/reload"] {
        for (with, status) in [
            (&[][..], 200),
            (&[SAME], 200),
            (&[("sec-fetch-site", "none")], 200),
            (&[("sec-fetch-site", "cross-site")], 403),
            // Another port of this machine is another site's page, or may be.
            (&[("sec-fetch-site", "same-site")], 403),
            (&[("origin", &*own)], 200),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "null")], 403),
            (&[SAME, ("origin", "http://evil.example")], 403),
        ] {
            let reply = post(&gateway, path, with).await;
            assert_eq!(reply.status, status, "{path} {with:?}");
        }
    }
    // Looking is nobody's harm: the browser keeps the answer from the other page.
    let looked = [("sec-fetch-site", "cross-site")];
    let reply = client::direct(gateway.admin, Method::GET, "/api/v1/status", &looked).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn a_name_that_somebody_made_point_here_is_refused() {
    let gateway = Gateway::alone().start().await;
    let port = gateway.admin.port();
    for path in ["/", "/images", "/api/v1/live", "/api/v1/events", "/ca.crt"] {
        assert_eq!(as_host(&gateway, path, "rebound.evil.example").await, "421");
    }
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        let host = format!("{host}:{port}");
        assert_eq!(as_host(&gateway, "/", &host).await, "200", "{host}");
    }
}

#[tokio::test]
async fn with_a_users_file_everybody_logs_in_but_who_asks_how_it_is() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("admins");
    let line = format!("ann:{}\n", bcrypt::hash("right", 4).unwrap());
    std::fs::write(&file, line).unwrap();
    let setup = Gateway::alone().text("admin", "users_file", file.to_str().unwrap());
    let gateway = setup.start().await;
    let right = ("authorization", "Basic YW5uOnJpZ2h0");
    let wrong = ("authorization", "Basic YW5uOndyb25n");
    for path in [
        "/",
        "/live",
        "/api/v1/status",
        "/api/v1/openapi.json",
        "/ca.crt",
    ] {
        for (with, status) in [(&[][..], 401), (&[wrong], 401), (&[right], 200)] {
            let reply = client::direct(gateway.admin, Method::GET, path, with).await;
            assert_eq!(reply.status, status, "{path} {with:?}");
            if status == 401 {
                let challenge = reply.header("www-authenticate");
                assert!(
                    challenge.starts_with("Basic realm=\"pierhead\""),
                    "{challenge}"
                );
            }
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/assets/style.css"] {
        assert_eq!(
            client::plain(gateway.admin, path).await.status,
            200,
            "{path}"
        );
    }
    // Whom the browser sends along by itself is no proof that its owner asked.
    let reply = post(
        &gateway,
        "/api/v1/reload",
        &[right, ("sec-fetch-site", "cross-site")],
    )
    .await;
    assert_eq!(reply.status, 403);
    assert_eq!(
        post(&gateway, "/api/v1/reload", &[right, SAME])
            .await
            .status,
        200
    );
    assert_eq!(post(&gateway, "/api/v1/reload", &[]).await.status, 401);
    // Those who log in may come by any name: a browser has no login for a name that was made up.
    assert_eq!(as_host(&gateway, "/", "gateway.corp.example").await, "401");

    // Who may read the cache directory has its key.
    let noted = std::fs::read_to_string(gateway.cache_dir().join("admin.token")).unwrap();
    let token = noted.split_whitespace().nth(1).unwrap();
    let bearer = format!("Bearer {token}");
    let bearer = [("authorization", bearer.as_str())];
    assert_eq!(post(&gateway, "/api/v1/reload", &bearer).await.status, 200);
    assert!(!gateway.log.text().contains(token));
}

#[tokio::test]
async fn admin_users_come_and_go_without_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("admins");
    let line = |name: &str| format!("{name}:{}\n", bcrypt::hash("right", 4).unwrap());
    std::fs::write(&file, line("ann")).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let mut gateway = Gateway::alone().start().await;
    let status = async |gateway: &Gateway, with: &[(&str, &str)]| {
        let reply = client::direct(gateway.admin, Method::GET, "/api/v1/status", with).await;
        reply.status
    };
    let ann = [("authorization", "Basic YW5uOnJpZ2h0")];
    let bob = [("authorization", "Basic Ym9iOnJpZ2h0")];
    assert_eq!(status(&gateway, &[]).await, 200);
    let line_ = gateway
        .reload_as(|setup| setup.text("admin", "users_file", &path))
        .await;
    assert!(line_.contains("admin.users_file"), "{line_}");
    assert_eq!(status(&gateway, &[]).await, 401);
    assert_eq!(status(&gateway, &ann).await, 200);
    // The file is followed, and a reload reads it, too.
    std::fs::write(&file, line("bob")).unwrap();
    gateway.hangup().await;
    assert_eq!(status(&gateway, &ann).await, 401);
    assert_eq!(status(&gateway, &bob).await, 200);
    // One that cannot be used leaves all as it was.
    gateway.rewrite(|setup| setup.text("admin", "users_file", "/nowhere/admins"));
    let told = gateway.hangup().await;
    let named = "admin.users_file: cannot read /nowhere/admins";
    assert!(told.contains(named), "{told}");
    assert_eq!(status(&gateway, &bob).await, 200);
    assert_eq!(status(&gateway, &[]).await, 401);
    gateway
        .reload_as(|setup| setup.text("admin", "users_file", ""))
        .await;
    assert_eq!(status(&gateway, &[]).await, 200);
}

/// Reads events until one holds.
async fn event(events: &mut Reply, text: &mut String, holds: impl Fn(&Value) -> bool) -> Value {
    loop {
        while let Some((one, rest)) = text.split_once("\n\n") {
            let data = one.lines().find_map(|line| line.strip_prefix("data: "));
            let named = one.lines().any(|line| line == "event: live");
            let data = data.map(str::to_owned);
            *text = rest.to_owned();
            if let Some(data) = data {
                assert!(named, "{data}");
                let now: Value = serde_json::from_str(&data).expect("JSON");
                if holds(&now) {
                    return now;
                }
            }
        }
        let chunk = events.chunk().await.expect("it goes on").unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
}

#[tokio::test]
async fn events_tell_of_downloads_and_denials_as_they_come_and_go() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob: Blob = repo.blob(1, 1 << 20);
    let gate = Gate::new();
    up.fault(On::get(&blob.digest), Fault::StallAt(1 << 19, gate.clone()));
    let gateway = Gateway::before(&up).start().await;
    let mut events = client::plain(gateway.admin, "/api/v1/events").await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let mut text = String::new();
    let none = |now: &Value| now["downloads"] == serde_json::json!([]);
    event(&mut events, &mut text, none).await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    let half = |now: &Value| now["downloads"][0]["done"] == 1 << 19;
    let now = event(&mut events, &mut text, half).await;
    let download = &now["downloads"][0];
    assert_eq!(download["digest"], blob.digest);
    assert_eq!(download["repository"], "app");
    assert_eq!(download["total"], 1 << 20);
    assert_eq!(download["followers"], 1);
    gate.open();
    reply.verified(&blob.digest).await;
    event(&mut events, &mut text, none).await;
    gateway.client().try_connect("elsewhere.test:443").await;
    let denied = |now: &Value| now["denials"][0]["host"] == "elsewhere.test";
    let now = event(&mut events, &mut text, denied).await;
    let mend = now["denials"][0]["mend"].as_str().unwrap();
    assert!(mend.contains("hosts = [\"elsewhere.test\"]"), "{mend}");
    // What is shown would allow it: the file with these lines is a good one.
    let config = std::fs::read_to_string(gateway.config_file()).unwrap();
    let lines = mend.lines().skip_while(|line| !line.starts_with('['));
    // The other way to allow it comes after a sentence.
    let lines = lines.take_while(|line| !line.contains("registry, this"));
    let lines: Vec<&str> = lines.collect();
    let mended = gateway.home().path().join("mended.toml");
    std::fs::write(&mended, format!("{config}\n{}\n", lines.join("\n"))).unwrap();
    let mended = mended.to_str().unwrap();
    let asked = ["check", "--config", mended, "elsewhere.test"];
    let checked = gateway::run(&asked, gateway.home().path()).await;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && said.contains("tunnel"),
        "{said}{mend}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_told_as_every_other_problem() {
    let gateway = Gateway::alone().start().await;
    for path in ["/api/v1/nothing", "/api/v2/images", "/nothing"] {
        let reply = client::direct(gateway.admin, Method::GET, path, &[]).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        let told = reply.text().await;
        assert!(told.contains(&format!("there is no {path};")), "{told}");
    }
}
