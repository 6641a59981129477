//! What `pierhead check HOST --client IP` prints.

use std::fmt::Write;
use std::net::IpAddr;

use super::hosts::{HostPattern, Target};
use super::registry::Registry;
use super::{Action, AddressGuard, Fallback, Policy, Role, RuleName, Via};

/// What would happen if `client`, known as `user`, asked for `target`, and why: a few lines of `what: value`.
///
/// A target on port 80 is taken as plain http, every other one as CONNECT.
pub fn explain(
    policy: &Policy,
    guard: &AddressGuard,
    target: &Target,
    client: IpAddr,
    user: Option<&str>,
) -> String {
    let via = match target.port {
        80 => Via::Http,
        _ => Via::Connect,
    };
    let verdict = policy.decide(client, user, via, target);
    let mut out = String::new();
    let asked = match via {
        Via::Connect => format!("CONNECT {target}"),
        Via::Http => format!("http://{}/", target.host),
    };
    line(&mut out, "request", format_args!("{asked} from {client}"));
    if let Some(user) = user {
        line(&mut out, "user", user);
    }
    match &verdict.action {
        Action::Intercept(site) => {
            line(&mut out, "verdict", "intercept");
            line(&mut out, "rule", &verdict.rule);
            role(&mut out, policy, &site.role, &site.registry, target, via);
        }
        Action::Tunnel => {
            line(
                &mut out,
                "verdict",
                "tunnel (bytes untouched, nothing cached)",
            );
            line(&mut out, "rule", rule(policy, &verdict.rule));
        }
        Action::Deny { reason, mend } => {
            line(&mut out, "verdict", "deny (403)");
            line(&mut out, "rule", rule(policy, &verdict.rule));
            line(&mut out, "reason", reason);
            line(&mut out, "mend", mend.replace('\n', "\n             "));
        }
    }
    let denied = matches!(verdict.action, Action::Deny { .. });
    if let (Some(ip), false) = (target.host.ip(), denied) {
        match guard.check(ip) {
            Ok(()) => line(&mut out, "address", "may be dialled"),
            Err(refused) => line(&mut out, "address", format_args!("refused: {refused}")),
        }
    }
    out
}

// === helpers ===

fn role(
    out: &mut String,
    policy: &Policy,
    role: &Role,
    registry: &Registry,
    target: &Target,
    via: Via,
) {
    match role {
        Role::Registry => line(out, "role", "registry: manifests and blobs are cached"),
        Role::Search => line(
            out,
            "role",
            "registry and search: manifests and blobs are cached",
        ),
        Role::Auth { path_prefix: None } => line(out, "role", "token service: relayed"),
        Role::Auth {
            path_prefix: Some(prefix),
        } => line(
            out,
            "role",
            format_args!(
                "token service: paths that begin with {prefix} are relayed, others denied"
            ),
        ),
    }
    if role.is_registry() {
        line(out, "cached as", registry.namespace(via, target));
        if let Some(url) = &registry.url {
            line(out, "asked at", url);
        }
        if !registry.enabled {
            line(out, "enabled", "false: only what is cached is answered");
        }
        line(out, "auth", registry.auth);
        line(out, "push", registry.push);
        let ttl: Vec<String> = registry
            .tag_ttl
            .iter()
            .map(|(pattern, ttl)| format!("{pattern} {}", humantime::format_duration(ttl)))
            .chain(["others as cache.tag_ttl says".to_owned()])
            .collect();
        line(out, "tag ttl", ttl.join(", "));
        if let Some(allowed) = &registry.repositories {
            line(out, "only", allowed);
        }
        if !registry.deny_repositories.is_empty() {
            line(out, "never", &registry.deny_repositories);
        }
    }
    let tokens = policy.sites.iter().filter(|place| {
        !policy.stands_aside(place)
            && place.site.registry.name == registry.name
            && matches!(place.site.role, Role::Auth { .. })
    });
    let tokens: Vec<&str> = tokens
        .map(|place| HostPattern::as_str(&place.pattern))
        .collect();
    line(
        out,
        "auth hosts",
        match tokens.is_empty() {
            true => "none but its own".to_owned(),
            false => tokens.join(", "),
        },
    );
    if via == Via::Connect {
        let covered = match policy.name_constraints() {
            all if all.everything => "a registry is \"*\", so name constraints hold no name back",
            all if all.cover(&target.host) => "the CA's name constraints cover it",
            _ => "the CA's name constraints do not cover it",
        };
        line(out, "certificate", covered);
    }
}

fn rule(policy: &Policy, name: &RuleName) -> String {
    match (name, policy.fallback) {
        (RuleName::Default, Fallback::Deny) => "policy.default = \"deny\"".to_owned(),
        (RuleName::Default, Fallback::Tunnel) => "policy.default = \"tunnel\"".to_owned(),
        (name, _) => name.to_string(),
    }
}

fn line(out: &mut String, what: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:<13}{value}", format!("{what}:"));
}

#[cfg(test)]
mod tests {
    use crate::policy::{PolicyConfig, RegistryConfig, RuleAction, RuleConfig};

    use super::*;

    fn explained(registries: Vec<RegistryConfig>, target: &str) -> String {
        let policy = Policy::new(PolicyConfig::default(), registries, true);
        let guard = AddressGuard::default();
        explain(
            &policy,
            &guard,
            &target.parse().unwrap(),
            "10.0.0.7".parse().unwrap(),
            None,
        )
    }

    #[test]
    fn a_rule_for_users_is_explained_for_a_user() {
        let rule = RuleConfig {
            action: RuleAction::Tunnel,
            hosts: vec!["pages.example".parse().unwrap()],
            ports: vec![],
            clients: vec![],
            users: vec!["ci".to_owned()],
        };
        let config = PolicyConfig {
            rules: vec![rule],
            ..PolicyConfig::default()
        };
        let policy = Policy::new(config, vec![], true);
        let target = "pages.example:443".parse().unwrap();
        let client = "10.0.0.7".parse().unwrap();
        let explained = |user| explain(&policy, &AddressGuard::default(), &target, client, user);
        let text = explained(Some("ci"));
        assert!(
            text.contains("user:        ci\nverdict:     tunnel"),
            "{text}"
        );
        let text = explained(Some("dev"));
        assert!(text.contains("not for this user"), "{text}");
        assert!(explained(None).contains("not for this user"));
    }

    #[test]
    fn docker_hub_is_explained_line_by_line() {
        let text = explained(vec![], "registry-1.docker.io:443");
        let expected = "\
request:     CONNECT registry-1.docker.io:443 from 10.0.0.7
verdict:     intercept
rule:        registry docker.io (built in)
role:        registry: manifests and blobs are cached
cached as:   docker.io
auth:        client
push:        deny
tag ttl:     others as cache.tag_ttl says
auth hosts:  auth.docker.io, login.docker.com, hub.docker.com
certificate: the CA's name constraints cover it
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_denial_is_explained_with_what_would_allow_it() {
        let text = explained(vec![], "packages.example:443");
        let expected = "\
request:     CONNECT packages.example:443 from 10.0.0.7
verdict:     deny (403)
rule:        policy.default = \"deny\"
reason:      policy.default = \"deny\": no rule and no registry names packages.example:443
mend:        To let it through untouched, add to pierhead.toml:
             [[policy.rule]]
             action = \"tunnel\"
             hosts = [\"packages.example\"]
             If it is a container registry, this caches it instead:
             [[registry]]
             host = \"packages.example\"
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_registry_at_a_private_address_is_explained_as_refused() {
        let mut entry = RegistryConfig::new("10.9.9.9".parse().unwrap());
        entry.ports = vec![5000];
        entry.enabled = false;
        let text = explained(vec![entry], "10.9.9.9:5000");
        assert!(text.contains("rule:        registry 10.9.9.9\n"), "{text}");
        assert!(text.contains("cached as:   10.9.9.9:5000\n"), "{text}");
        assert!(text.contains("enabled:     false"), "{text}");
        assert!(
            text.contains("address:     refused: 10.9.9.9 is a private address"),
            "{text}"
        );
        assert!(text.contains("name constraints cover it"), "{text}");
    }

    #[test]
    fn a_token_host_says_which_paths_pass() {
        let text = explained(vec![], "gitlab.com:443");
        assert!(text.contains("begin with /jwt/auth are relayed"), "{text}");
    }

    #[test]
    fn port_80_is_plain_http() {
        let entry = RegistryConfig::new("plain.example".parse().unwrap());
        let text = explained(vec![entry], "plain.example:80");
        assert!(
            text.starts_with("request:     http://plain.example/ from"),
            "{text}"
        );
        assert!(text.contains("verdict:     intercept"), "{text}");
    }
}
