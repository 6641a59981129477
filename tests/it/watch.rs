//! `watch_config`: a changed file is taken up without a signal, however it was changed.

use crate::reload::{known, unknown};
use crate::support::{Gateway, Setup, Upstream};

/// Until the gateway has taken up, by itself, a registry that was added.
async fn is_taken_up(gateway: &Gateway, n: usize) {
    gateway.log.nth("was read anew", n).await;
    let (answer, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_watched_file_may_be_replaced_by_another_or_written_in_place() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let setup = Gateway::before(&up).set("", "watch_config", "true");
    let mut gateway = setup.clone().no_registry("registry.test").start().await;
    let file = gateway.config_file();
    let old = std::fs::read(&file).unwrap();
    gateway.rewrite(|_| setup);
    is_taken_up(&gateway, 1).await;
    // As editors do: a new file in the place of the old one, here one that is wrong.
    let replace = |bytes: &[u8]| {
        let fresh = file.with_extension("swp");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(&fresh, &file).unwrap();
    };
    replace(b"[cache]\nmax_sise = 1\n");
    let line = gateway.log.line("was not taken").await;
    assert!(
        line.contains("line 2") && line.contains("max_sise"),
        "{line}"
    );
    replace(&old);
    gateway.log.nth("was read anew", 2).await;
    let (answer, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn a_watched_file_may_be_a_config_map() {
    use std::os::unix::fs::symlink;
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let setup = Gateway::before(&up).set("", "watch_config", "true");
    let home = std::sync::Arc::new(tempfile::tempdir().unwrap());
    // pierhead.toml -> ..data/pierhead.toml, ..data -> ..one
    let put = |dir: &str, setup: &Setup| {
        let dir = home.path().join(dir);
        std::fs::create_dir(&dir).unwrap();
        let written = setup.write(&home);
        std::fs::rename(written, dir.join("pierhead.toml")).unwrap();
    };
    put("..one", &setup.clone().no_registry("registry.test"));
    put("..two", &setup);
    put("..three", &setup.clone().no_registry("registry.test"));
    let link = |to: &str, from: &str| symlink(to, home.path().join(from)).unwrap();
    link("..one", "..data");
    link("..data/pierhead.toml", "pierhead.toml");
    // What it writes goes through the links.
    let first = setup.no_registry("registry.test");
    let gateway = first.start_in(home.clone()).await;
    let swap = |to: &str, old: &str| {
        link(to, "..data_tmp");
        std::fs::rename(home.path().join("..data_tmp"), home.path().join("..data")).unwrap();
        std::fs::remove_dir_all(home.path().join(old)).unwrap();
    };
    swap("..two", "..one");
    is_taken_up(&gateway, 1).await;
    swap("..three", "..two");
    gateway.log.nth("was read anew", 2).await;
    let (answer, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn without_watch_config_a_changed_file_waits_for_the_signal() {
    let (_up, _repo, _blob, mut gateway) = unknown().await;
    gateway.rewrite(known);
    let (answer, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(answer.status, 403);
    let line = gateway.hangup().await;
    assert!(line.contains("was read anew"), "{line}");
    assert_eq!(gateway.log.all("has changed").len(), 0);
}
