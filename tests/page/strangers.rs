//! Who is not let in, by the browser's own rules and the gateway's.

use serde_json::json;

use crate::browser;
use crate::support::{Gateway, Upstream, client};

#[tokio::test]
async fn another_sites_page_changes_nothing_and_reads_nothing() {
    let up = Upstream::start().await;
    let gateway = Gateway::alone().start().await;
    let switch = format!(
        "<form method=post action=http://{}/actions/switch>\
         <input name=registry value=quay.io><input name=enabled value=false><input name=back value=/registries>\
         <button>Win a prize</button></form>",
        gateway.admin
    );
    up.page("evil.example", "/prize", "text/html", switch.as_bytes());
    let facts = json!({ "evil": format!("evil.example:{}", up.addr().port()), "admin": gateway.admin.port() });
    browser::run("strangers.js", &gateway, facts).await;
    let text = client::plain(gateway.admin, "/api/v1/registries")
        .await
        .text()
        .await;
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = all["registries"].as_array().unwrap();
    assert!(all.iter().all(|one| one["enabled"] == true), "{text}");
}

#[tokio::test]
async fn who_logs_in_reads_and_changes() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("admins");
    std::fs::write(
        &file,
        format!("ann:{}\n", bcrypt::hash("right", 4).unwrap()),
    )
    .unwrap();
    let setup = Gateway::alone().text("admin", "users_file", file.to_str().unwrap());
    let gateway = setup.start().await;
    browser::run("login.js", &gateway, json!({})).await;
}
