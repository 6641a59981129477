use proptest::prelude::*;

use super::*;

fn policy(registries: &[&str], rules: Vec<RuleConfig>, default: Fallback) -> Policy {
    let registries = registries.iter().map(|host| entry(host)).collect();
    Policy::new(PolicyConfig { default, rules }, registries, true)
}

fn plain() -> Policy {
    policy(&[], vec![], Fallback::Deny)
}

fn entry(host: &str) -> RegistryConfig {
    RegistryConfig::new(host.parse().unwrap())
}

pub(super) fn rule(action: RuleAction, host: &str) -> RuleConfig {
    RuleConfig {
        action,
        hosts: vec![host.parse().unwrap()],
        ports: vec![],
        clients: vec![],
        users: vec![],
    }
}

fn ask(policy: &Policy, via: Via, target: &str) -> Verdict {
    let client = "10.0.0.7".parse().unwrap();
    policy.decide(client, None, via, &target.parse().unwrap())
}

fn connect(policy: &Policy, target: &str) -> Verdict {
    ask(policy, Via::Connect, target)
}

fn site(verdict: &Verdict) -> &Site {
    match &verdict.action {
        Action::Intercept(site) => site,
        other => panic!("not intercepted: {other:?}"),
    }
}

fn denied(verdict: &Verdict) -> (&str, &str) {
    match &verdict.action {
        Action::Deny { reason, mend } => (reason, mend),
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn the_well_known_registries_are_intercepted_on_443() {
    let policy = plain();
    for target in [
        "registry-1.docker.io:443",
        "ghcr.io:443",
        "quay.io:443",
        "registry.k8s.io:443",
        "us-docker.pkg.dev:443",
        "eu.gcr.io:443",
    ] {
        let verdict = connect(&policy, target);
        assert_eq!(site(&verdict).role, Role::Registry, "{target}");
        assert!(verdict.rule.to_string().ends_with("(built in)"), "{target}");
    }
    let verdict = connect(&policy, "ghcr.io:443");
    assert_eq!(verdict.rule.to_string(), "registry ghcr.io (built in)");
}

#[test]
fn token_and_search_hosts_belong_to_their_registry() {
    let policy = plain();
    let verdict = connect(&policy, "auth.docker.io:443");
    assert_eq!(site(&verdict).role, Role::Auth { path_prefix: None });
    assert_eq!(site(&verdict).registry.name, "docker.io");
    let verdict = connect(&policy, "gitlab.com:443");
    let path_prefix = Some("/jwt/auth".into());
    assert_eq!(site(&verdict).role, Role::Auth { path_prefix });
    let verdict = connect(&policy, "index.docker.io:443");
    assert_eq!(site(&verdict).role, Role::Search);
    assert!(site(&verdict).role.is_registry());
}

#[test]
fn a_well_known_registry_is_not_answered_on_other_ports_or_in_the_clear() {
    let policy = plain();
    for (via, target) in [(Via::Connect, "ghcr.io:8443"), (Via::Http, "ghcr.io:80")] {
        let verdict = ask(&policy, via, target);
        let (reason, mend) = denied(&verdict);
        assert!(
            reason.contains("registry ghcr.io (built in) is answered on port 443 over TLS only"),
            "{reason}"
        );
        assert!(
            mend.contains("[[registry]]\nhost = \"ghcr.io\"\nports = ["),
            "{mend}"
        );
        assert_eq!(verdict.rule, RuleName::Default);
    }
}

#[test]
fn what_nothing_names_is_denied_with_the_lines_that_allow_it() {
    let verdict = connect(&plain(), "packages.example:8443");
    assert_eq!(verdict.rule.to_string(), "policy.default");
    let (reason, mend) = denied(&verdict);
    assert!(reason.contains("no rule and no registry names packages.example:8443"));
    let lines =
        "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"packages.example\"]\nports = [8443]";
    assert!(mend.contains(lines), "{mend}");
    assert!(
        mend.contains("[[registry]]\nhost = \"packages.example\"\nports = [8443]"),
        "{mend}"
    );
}

#[test]
fn a_blob_host_is_denied_with_the_hint_that_pierhead_follows_redirects() {
    let verdict = connect(&plain(), "production.cloudflare.docker.com:443");
    let (reason, mend) = denied(&verdict);
    assert!(reason.contains("the blobs of docker.io"), "{reason}");
    assert!(
        reason.contains("pierhead follows such redirects itself"),
        "{reason}"
    );
    assert!(
        mend.contains("did not ask registry-1.docker.io through pierhead"),
        "{mend}"
    );
}

#[test]
fn a_registry_of_private_accounts_is_answered_once_it_is_configured() {
    let target = "1.dkr.ecr.eu-west-1.amazonaws.com:443";
    let verdict = connect(&plain(), target);
    let (reason, mend) = denied(&verdict);
    assert!(reason.contains("known as Amazon ECR"), "{reason}");
    assert!(
        mend.contains("[[registry]]\nhost = \"1.dkr.ecr.eu-west-1.amazonaws.com\""),
        "{mend}"
    );
    let configured = policy(&["*.dkr.ecr.*.amazonaws.com"], vec![], Fallback::Deny);
    site(&connect(&configured, target));
}

#[test]
fn without_the_builtin_list_a_denial_says_so() {
    let policy = Policy::new(PolicyConfig::default(), vec![], false);
    assert!(policy.registries().is_empty());
    let verdict = connect(&policy, "auth.docker.io:443");
    let (reason, mend) = denied(&verdict);
    assert!(reason.contains("builtin_registries = false"), "{reason}");
    assert!(mend.contains("host = \"docker.io\""), "{mend}");
}

#[test]
fn a_configured_registry_keeps_its_token_hosts_without_the_builtin_list() {
    let policy = Policy::new(PolicyConfig::default(), vec![entry("docker.io")], false);
    assert_eq!(
        site(&connect(&policy, "registry-1.docker.io:443"))
            .registry
            .name,
        "docker.io"
    );
    let verdict = connect(&policy, "auth.docker.io:443");
    assert!(matches!(site(&verdict).role, Role::Auth { .. }));
    assert_eq!(verdict.rule.to_string(), "registry docker.io");
    denied(&connect(&policy, "ghcr.io:443"));
}

#[test]
fn an_entry_for_any_host_of_docker_hub_sets_all_of_it() {
    for host in ["docker.io", "registry-1.docker.io", "index.docker.io"] {
        let mut hub = entry(host);
        hub.push = Push::Allow;
        let policy = Policy::new(PolicyConfig::default(), vec![hub], true);
        for asked in [
            "registry-1.docker.io:443",
            "index.docker.io:443",
            "auth.docker.io:443",
        ] {
            let verdict = connect(&policy, asked);
            assert_eq!(site(&verdict).registry.push, Push::Allow, "{host} {asked}");
            assert_eq!(verdict.rule.to_string(), "registry docker.io");
        }
        let hubs = policy.registries().iter().filter(|r| r.name == "docker.io");
        assert_eq!(hubs.count(), 1);
    }
}

#[test]
fn an_entry_for_one_host_of_a_family_leaves_the_others_built_in() {
    let policy = policy(&["eu.gcr.io"], vec![], Fallback::Deny);
    assert_eq!(
        connect(&policy, "eu.gcr.io:443").rule.to_string(),
        "registry eu.gcr.io"
    );
    assert_eq!(
        connect(&policy, "us.gcr.io:443").rule.to_string(),
        "registry gcr.io (built in)"
    );
}

#[test]
fn a_host_written_out_comes_before_a_pattern_and_before_the_builtin_list() {
    let policy = policy(&["*.example", "a.example", "*.io"], vec![], Fallback::Deny);
    assert_eq!(
        connect(&policy, "a.example:443").rule.to_string(),
        "registry a.example"
    );
    assert_eq!(
        connect(&policy, "b.example:443").rule.to_string(),
        "registry *.example"
    );
    assert_eq!(
        connect(&policy, "ghcr.io:443").rule.to_string(),
        "registry *.io"
    );
}

#[test]
fn a_configured_registry_answers_plain_http_and_its_own_ports() {
    let mut own = entry("registry.example");
    own.ports = vec![5000];
    let policy = Policy::new(PolicyConfig::default(), vec![own, entry("b.example")], true);
    site(&ask(&policy, Via::Http, "registry.example:5000"));
    site(&connect(&policy, "registry.example:5000"));
    site(&ask(&policy, Via::Http, "b.example:80"));
    let verdict = connect(&policy, "registry.example:443");
    assert!(denied(&verdict).0.contains("answered on port 5000 only"));
}

#[test]
fn rules_come_before_registries_and_the_first_match_decides() {
    let rules = vec![
        rule(RuleAction::Tunnel, "ghcr.io"),
        rule(RuleAction::Deny, "*.io"),
    ];
    let policy = policy(&[], rules, Fallback::Tunnel);
    let verdict = connect(&policy, "ghcr.io:443");
    assert!(matches!(verdict.action, Action::Tunnel));
    assert_eq!(verdict.rule.to_string(), "policy.rule 1");
    let verdict = connect(&policy, "quay.io:443");
    let (reason, mend) = denied(&verdict);
    assert_eq!(reason, "policy.rule 2 denies quay.io:443");
    assert!(mend.contains("change [[policy.rule]] number 2"), "{mend}");
    assert_eq!(verdict.rule, RuleName::Rule(2));
}

#[test]
fn a_rule_that_nearly_matches_is_named_in_the_denial() {
    let mut narrow = rule(RuleAction::Tunnel, "a.example");
    narrow.clients = vec!["192.168.0.0/16".parse().unwrap()];
    let policy = policy(&[], vec![narrow], Fallback::Deny);
    let verdict = connect(&policy, "a.example:443");
    let (reason, _) = denied(&verdict);
    assert!(
        reason.contains(
            "policy.rule 1 names a.example, but not for this client's address (client 10.0.0.7"
        ),
        "{reason}"
    );
}

#[test]
fn with_default_tunnel_everything_else_passes_on_any_port() {
    let policy = policy(&[], vec![], Fallback::Tunnel);
    for target in ["anything.example:22", "10.0.0.1:443", "gitlab.com:443"] {
        let verdict = connect(&policy, target);
        assert!(matches!(verdict.action, Action::Tunnel), "{target}");
        assert_eq!(verdict.rule, RuleName::Default);
    }
    site(&connect(&policy, "auth.docker.io:443"));
    assert!(
        !policy
            .name_constraints()
            .dns
            .contains(&"gitlab.com".to_owned())
    );
}

#[test]
fn a_registry_is_looked_up_by_name_host_and_port() {
    let mut own = entry("registry.example");
    own.ports = vec![5000];
    let policy = Policy::new(PolicyConfig::default(), vec![own], true);
    let name = |host, port| policy.registry_for(host, port).map(|r| r.name.clone());
    assert_eq!(name("docker.io", None).as_deref(), Some("docker.io"));
    assert_eq!(
        name("index.docker.io", Some(443)).as_deref(),
        Some("docker.io")
    );
    assert_eq!(
        name("registry.example", Some(5000)).as_deref(),
        Some("registry.example")
    );
    assert_eq!(name("registry.example", None), None);
    assert_eq!(name("auth.docker.io", None), None);
    assert_eq!(name("not a host", None), None);
}

#[test]
fn the_constraints_are_sorted_and_none_lies_inside_another() {
    let own = ["*.docker.io", "10.1.2.3", "[fd00::1]"];
    let all = policy(&own, vec![], Fallback::Deny).name_constraints();
    assert!(all.dns.is_sorted());
    assert!(all.dns.contains(&"docker.io".to_owned()));
    assert!(!all.dns.contains(&"auth.docker.io".to_owned()));
    assert!(all.dns.contains(&"gitlab.com".to_owned()));
    assert!(
        !all.dns.contains(&"amazonaws.com".to_owned()),
        "{:?}",
        all.dns
    );
    let ips: Vec<String> = all.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.1.2.3", "fd00::1"]);
    assert!(!all.everything);
    assert!(plain().name_constraints().ips.is_empty());
    assert!(
        policy(&["*"], vec![], Fallback::Deny)
            .name_constraints()
            .everything
    );
}

#[test]
fn two_entries_for_one_registry_on_one_port_are_recognised() {
    let on = |host: &str, ports: &[u16]| RegistryConfig {
        ports: ports.to_vec(),
        ..entry(host)
    };
    for (one, other, shared) in [
        (entry("docker.io"), entry("index.docker.io"), Some(443)),
        (entry("gcr.io"), entry("eu.gcr.io"), None),
        (entry("a.example"), on("a.example", &[5000]), None),
        (
            on("a.example", &[5000, 443]),
            on("a.example", &[443]),
            Some(443),
        ),
        (
            on("a.example", &[5000, 5001]),
            on("a.example", &[5001, 5002]),
            Some(5001),
        ),
        // Port 80 in TLS is not port 80 in plain http, but both ways are open on a listed port.
        (entry("a.example"), on("a.example", &[80]), Some(80)),
        (entry("ghcr.io"), on("ghcr.io", &[80]), None),
        (on("*.example", &[443]), on("*.example", &[443]), Some(443)),
        (entry("*.example"), entry("a.example"), None),
        (entry("10.0.0.1"), entry("::ffff:10.0.0.1"), Some(443)),
    ] {
        assert_eq!(shared_port(&one, &other), shared, "{one:?} {other:?}");
        assert_eq!(shared_port(&other, &one), shared, "{other:?} {one:?}");
    }
}

proptest! {
    #[test]
    fn an_empty_policy_denies_every_host(host in "[a-z]{1,10}(\\.[a-z]{1,10}){0,3}", port in 1u16..) {
        let policy = Policy::new(PolicyConfig::default(), vec![], false);
        let verdict = connect(&policy, &format!("{host}:{port}"));
        let denied = matches!(verdict.action, Action::Deny { .. });
        prop_assert!(denied);
    }

    #[test]
    fn whatever_is_intercepted_the_constraints_cover(
        host in "[a-z]{1,4}(\\.(docker|gcr|a|b)){0,2}\\.(io|com|dev)",
        pattern in "(\\*\\.)?([a-b*]{1,2}\\.){0,2}(io|com|dev)",
    ) {
        let policy = policy(&[&pattern], vec![], Fallback::Deny);
        let target: Target = format!("{host}:443").parse().unwrap();
        if let Action::Intercept(_) = connect(&policy, &target.to_string()).action {
            prop_assert!(policy.name_constraints().cover(&target.host));
        }
    }

    #[test]
    fn a_first_rule_that_denies_a_host_is_never_overruled(host in "[a-z]{1,6}\\.(io|example)", port in 1u16..) {
        let policy = policy(&["*"], vec![rule(RuleAction::Deny, &host)], Fallback::Tunnel);
        for via in [Via::Connect, Via::Http] {
            let verdict = ask(&policy, via, &format!("{host}:{port}"));
            let denied = matches!(verdict.action, Action::Deny { .. });
            prop_assert!(denied);
        }
    }
}

#[test]
fn a_registry_that_is_switched_off_is_so_at_all_its_hosts_and_nothing_else_is() {
    let policy = policy(&["registry.test"], vec![], Fallback::Deny);
    assert!(policy.switched("nowhere.test", false).is_none());
    let off = policy.switched("docker.io", false).unwrap();
    let enabled = |policy: &Policy, target: &str| match ask(policy, Via::Connect, target).action {
        Action::Intercept(site) => site.registry.enabled,
        other => panic!("{target}: {other:?}"),
    };
    for host in ["registry-1.docker.io:443", "index.docker.io:443"] {
        assert!(enabled(&policy, host) && !enabled(&off, host), "{host}");
    }
    assert!(enabled(&off, "registry.test:443"));
    let named = off.registries().iter().filter(|registry| !registry.enabled);
    assert_eq!(
        named.map(|one| one.name.as_str()).collect::<Vec<_>>(),
        ["docker.io"]
    );
    let on = off.switched("docker.io", true).unwrap();
    assert!(enabled(&on, "registry-1.docker.io:443"));
}
