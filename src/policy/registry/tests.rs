use proptest::prelude::*;

use super::*;
use crate::policy::builtin::KNOWN;

fn registry(host: &str) -> RegistryConfig {
    RegistryConfig::new(host.parse().unwrap())
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

#[test]
fn a_repository_pattern_matches_nested_names_too() {
    let mut config = registry("registry.example");
    config.repositories = Some(Patterns::new(["team/*", "base"]).unwrap());
    let registry = Registry::configured(config, None);
    assert_eq!(registry.allows_repository("team/app"), Ok(()));
    assert_eq!(registry.allows_repository("team/a/b/c"), Ok(()));
    assert_eq!(registry.allows_repository("base"), Ok(()));
    assert!(registry.allows_repository("basement").is_err());
    let denied = registry.allows_repository("other/app").unwrap_err();
    assert_eq!(
        denied,
        "repositories = [\"team/*\", \"base\"] of registry registry.example, which does not list other/app"
    );
}

#[test]
fn a_denied_repository_stays_denied_though_it_is_listed() {
    let mut config = registry("registry.example");
    config.repositories = Some(Patterns::new(["*"]).unwrap());
    config.deny_repositories = Patterns::new(["team/secret*"]).unwrap();
    let registry = Registry::configured(config, None);
    assert_eq!(registry.allows_repository("team/app"), Ok(()));
    let denied = registry.allows_repository("team/secret/x").unwrap_err();
    assert!(denied.starts_with("deny_repositories of registry registry.example"));
    assert!(denied.contains("\"team/secret*\""), "{denied}");
}

#[test]
fn an_empty_list_of_repositories_allows_none() {
    let mut config = registry("registry.example");
    config.repositories = Some(Patterns::default());
    let registry = Registry::configured(config, None);
    assert!(registry.allows_repository("team/app").is_err());
}

#[test]
fn an_official_image_of_docker_hub_goes_by_its_short_name_too() {
    let mut config = registry("docker.io");
    config.deny_repositories = Patterns::new(["alpine"]).unwrap();
    let hub = Registry::configured(config, Some(&KNOWN[0]));
    assert!(hub.allows_repository("library/alpine").is_err());
    assert!(hub.allows_repository("someone/alpine").is_ok());
}

#[test]
fn docker_hub_is_one_namespace_and_other_hosts_are_their_own() {
    let hub = Registry::well_known(&KNOWN[0]);
    for host in ["registry-1.docker.io:443", "index.docker.io:443"] {
        assert_eq!(hub.namespace(Via::Connect, &target(host)), "docker.io");
    }
    let other = Registry::configured(registry("*.example"), None);
    let name = |via, text| other.namespace(via, &target(text));
    assert_eq!(name(Via::Connect, "a.example:443"), "a.example");
    assert_eq!(name(Via::Connect, "b.example:443"), "b.example");
    assert_eq!(name(Via::Connect, "a.example:5000"), "a.example:5000");
    assert_eq!(name(Via::Http, "a.example:5000"), "http://a.example:5000");
}

#[test]
fn ports_default_to_the_schemes_own() {
    let plain = Ports::new(vec![], false);
    assert!(plain.allow(Via::Connect, 443) && plain.allow(Via::Http, 80));
    assert!(!plain.allow(Via::Connect, 80) && !plain.allow(Via::Http, 443));
    let known = Ports::new(vec![], true);
    assert!(known.allow(Via::Connect, 443) && !known.allow(Via::Http, 80));
    let listed = Ports::new(vec![5000], false);
    assert!(listed.allow(Via::Connect, 5000) && listed.allow(Via::Http, 5000));
    assert!(!listed.allow(Via::Connect, 443));
    assert_eq!(listed.to_string(), "5000 only");
}

proptest! {
    #[test]
    fn a_pattern_that_parses_matches_without_panicking(pattern in "\\PC{0,20}", name in "\\PC{0,20}") {
        if let Ok(patterns) = Patterns::new([pattern]) {
            let _ = patterns.first_match(&name);
        }
    }

    #[test]
    fn what_is_denied_is_denied_with_any_allowlist(name in "[a-z]{1,8}(/[a-z]{1,8}){0,3}") {
        let mut config = registry("registry.example");
        config.deny_repositories = Patterns::new([&name]).unwrap();
        config.repositories = Some(Patterns::new([&name, "*"]).unwrap());
        prop_assert!(Registry::configured(config, None).allows_repository(&name).is_err());
    }
}
