use super::*;

async fn reloader(home: &tempfile::TempDir) -> Arc<Reloader> {
    let file = home.path().join("pierhead.toml");
    let dir = |name: &str| home.path().join(name);
    let text = format!(
        "[ca]\ndir = {:?}\n[cache]\ndir = {:?}\n[[registry]]\nhost = \"registry.test\"\n",
        dir("ca"),
        dir("cache")
    );
    std::fs::write(&file, text).unwrap();
    let config = Config::load(Some(&file), std::iter::empty()).unwrap();
    let rooms = Rooms::build(&config).await.unwrap();
    let clients = Clients::new(config.limits.connections_per_client);
    let patience = Arc::new(ArcSwap::from_pointee(parts::patience(&config)));
    let admins = Users::open(crate::users::ADMIN, None, rooms.metrics.clone()).unwrap();
    let admins = Arc::new(ArcSwap::from_pointee(admins));
    Reloader::new(config, &rooms, admins, clients, patience)
}

fn enabled(reloader: &Reloader, name: &str) -> bool {
    let live = reloader.gateway.live.load();
    let found = live.policy.registry_for(name, None);
    found.unwrap().enabled
}

#[tokio::test]
async fn a_switch_lasts_until_the_next_reload_which_says_so() {
    let home = tempfile::tempdir().unwrap();
    let reloader = reloader(&home).await;
    let unknown = reloader.set_enabled("nowhere.test", false).await;
    assert_eq!(unknown, Err(NoSuchRegistry("nowhere.test".into())));
    let told = reloader.set_enabled("registry.test", false).await.unwrap();
    assert!(told.contains("until the next reload or restart"), "{told}");
    assert!(!enabled(&reloader, "registry.test") && enabled(&reloader, "ghcr.io"));

    let report = reloader.reload().await.unwrap();
    assert!(enabled(&reloader, "registry.test"));
    assert_eq!(report.changed, [""; 0]);
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("registry.test was switched off by hand"));
    assert_eq!(reloader.reload().await.unwrap(), Report::default());
}

#[tokio::test]
async fn a_refused_reload_leaves_the_switch_and_everything_else() {
    let home = tempfile::tempdir().unwrap();
    let reloader = reloader(&home).await;
    reloader.set_enabled("registry.test", false).await.unwrap();
    let before = reloader.gateway.live.load_full();
    std::fs::write(home.path().join("pierhead.toml"), "[cache]\nmax = 1\n").unwrap();
    let error = reloader.reload().await.unwrap_err();
    assert!(matches!(error, ReloadError::Config(_)), "{error}");
    assert!(error.to_string().contains("line 2"), "{error}");
    assert!(Arc::ptr_eq(&before, &reloader.gateway.live.load_full()));
}
