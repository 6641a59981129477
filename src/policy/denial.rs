//! What a denied caller reads: which rule, why, and the lines that would allow it.

use std::net::IpAddr;

use super::builtin::{self, Known};
use super::hosts::Target;
use super::rules::{Fit, NOT_THIS_PORT, NOT_THIS_USER, RuleAction, RuleConfig, Via};
use super::{Action, Policy};

/// Who asks for what.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) client: IpAddr,
    pub(super) user: Option<&'a str>,
    pub(super) via: Via,
    pub(super) target: &'a Target,
}

/// Denied by the rule that stands at `at`.
pub(super) fn by_rule(policy: &Policy, at: usize, request: Request<'_>) -> Action {
    let target = request.target;
    let rule = &policy.rules[at];
    let number = at + 1;
    let mend = match answered_but_for_rules(policy, at, request) {
        // A tunnel would let it through as well, but past the cache.
        Some((name, rules)) => {
            let (it_does, it) = match rules.len() {
                1 => ("it does", "it"),
                _ => ("they do", "them"),
            };
            format!(
                "{name} would answer it. In pierhead.toml, change [[policy.rule]] number {} so that {it_does} not speak of {} any more, or remove {it}.",
                rules.join(" and "),
                spoken_of(rule, request),
            )
        }
        None => format!(
            "To let it through all the same, put this before [[policy.rule]] number {number} in pierhead.toml:\n{}",
            tunnel_lines_like(rule, request)
        ),
    };
    Action::Deny {
        reason: format!("policy.rule {number} denies {target}"),
        mend,
    }
}

/// Denied because nothing allows it.
pub(super) fn by_default(policy: &Policy, request: Request<'_>) -> Action {
    let Request { via, target, .. } = request;
    let host = &target.host;
    let tunnel = tunnel_lines(via, target);
    let near = near_rule(policy, request);
    let place = policy.sites.iter().find(|p| p.pattern.covers(host));
    // A rule for other ports of a registry was not written for this one: the registry is nearer.
    let near = near.filter(|(_, but)| {
        let registry = place.is_some_and(|place| place.site.role.is_registry());
        *but != NOT_THIS_PORT || !registry
    });
    let (reason, mend) = if let Some((at, but)) = near {
        let rule = &policy.rules[at];
        (
            format!(
                "policy.default = \"deny\": policy.rule {} names {host}, but {but} (client {}, {target})",
                at + 1,
                request.client
            ),
            match request.user {
                None if but == NOT_THIS_USER => format!(
                    "Ask as one of the users that [[policy.rule]] number {} is for: the proxy as http://USER:PASSWORD@GATEWAY:PORT.",
                    at + 1
                ),
                _ => format!(
                    "To let it through, widen that rule in pierhead.toml or add:\n{}",
                    tunnel_lines_like(rule, request)
                ),
            },
        )
    } else if let Some(place) = place {
        let registry = &place.site.registry;
        let name = super::RuleName::of(registry);
        let ports = &place.ports;
        (
            format!(
                "policy.default = \"deny\": {name} is answered on port {ports}, not as {target}"
            ),
            match (place.site.role.is_registry(), registry.builtin) {
                (true, true) => format!(
                    "To answer it there too, say so in pierhead.toml:\n[[registry]]\nhost = \"{host}\"\nports = {:?}",
                    ports.with(target.port)
                ),
                // A second entry for the same hosts would be refused.
                (true, false) => format!(
                    "To answer it there too, say so in its [[registry]] in pierhead.toml, the one of {}:\nports = {:?}",
                    registry.name,
                    ports.with(target.port)
                ),
                (false, _) => format!("To let it through, add to pierhead.toml:\n{tunnel}"),
            },
        )
    } else if let Some(row) = builtin::row_serving(host) {
        dormant(row, target)
    } else if let Some(row) = builtin::row_redirecting_to(host) {
        (
            format!(
                "policy.default = \"deny\": {host} only delivers the blobs of {}, and pierhead follows such redirects itself",
                row.name
            ),
            format!(
                "A client that asks for it did not ask {} through pierhead: send that through the proxy too. To let it through all the same, add to pierhead.toml:\n{tunnel}",
                row.hosts[0]
            ),
        )
    } else {
        (
            format!("policy.default = \"deny\": no rule and no registry names {target}"),
            format!(
                "To let it through untouched, add to pierhead.toml:\n{tunnel}\nIf it is a container registry, this caches it instead:\n{}",
                registry_lines(via, target)
            ),
        )
    };
    Action::Deny { reason, mend }
}

// === impl Request ===

impl Request<'_> {
    fn fits(self, rule: &RuleConfig) -> Fit {
        rule.fits(self.client, self.user, self.via, self.target)
    }
}

// === helpers ===

/// A well-known registry that is not answered as things are configured.
fn dormant(row: &Known, target: &Target) -> (String, String) {
    let host = &target.host;
    let why = match row.public {
        true => "builtin_registries = false leaves it out",
        false => "every account there has its own, so only those you configure are answered",
    };
    let reason = format!(
        "policy.default = \"deny\": {host} is known as {}, but {why}",
        row.name
    );
    // A token host does nothing without its registry.
    let entry = match row.auth.iter().any(|(auth, _)| *auth == host.as_str()) {
        true => row.name,
        false => host.as_str(),
    };
    let mend = format!(
        "To answer it, add to pierhead.toml:\n[[registry]]\nhost = \"{entry}\"\nauth = \"client\""
    );
    (reason, mend)
}

/// Who would answer if the denying rules, from that at `from` on, did not speak of the request, and the
/// numbers of those; `None` where nobody would, or a tunnel would come first.
fn answered_but_for_rules(
    policy: &Policy,
    from: usize,
    request: Request<'_>,
) -> Option<(super::RuleName, Vec<String>)> {
    let site = policy.site(request.via, request.target)?;
    let mut denying = Vec::new();
    for (at, rule) in policy.rules.iter().enumerate().skip(from) {
        let matches = request.fits(rule) == Fit::Matches;
        match rule.action {
            RuleAction::Tunnel if matches => return None,
            RuleAction::Deny if matches => denying.push((at + 1).to_string()),
            _ => {}
        }
    }
    Some((super::RuleName::of(&site.registry), denying))
}

/// What of the rule matched the request.
fn spoken_of(rule: &RuleConfig, request: Request<'_>) -> String {
    let mut text = request.target.to_string();
    if let Some(user) = request.user.filter(|_| !rule.users.is_empty()) {
        text.push_str(&format!(" for the user {user}"));
    }
    if !rule.clients.is_empty() {
        text.push_str(&format!(" from {}", request.client.to_canonical()));
    }
    text
}

/// The first rule that would have let it through but for one thing.
fn near_rule(policy: &Policy, request: Request<'_>) -> Option<(usize, &'static str)> {
    let rules = policy.rules.iter().enumerate();
    let mut tunnels = rules.filter(|(_, rule)| rule.action == RuleAction::Tunnel);
    tunnels.find_map(|(at, rule)| match request.fits(rule) {
        Fit::Nearly(but) => Some((at, but)),
        _ => None,
    })
}

/// A tunnel for no more callers than `rule` makes a difference between.
fn tunnel_lines_like(rule: &RuleConfig, request: Request<'_>) -> String {
    let mut lines = tunnel_lines(request.via, request.target);
    if !rule.clients.is_empty() {
        let client = request.client.to_canonical();
        lines.push_str(&format!("\nclients = [\"{client}\"]"));
    }
    if let Some(user) = request.user.filter(|_| !rule.users.is_empty()) {
        lines.push_str(&format!("\nusers = [{user:?}]"));
    }
    lines
}

fn tunnel_lines(via: Via, target: &Target) -> String {
    format!(
        "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"{}\"]{}",
        target.host,
        ports_line(via, target)
    )
}

fn registry_lines(via: Via, target: &Target) -> String {
    format!(
        "[[registry]]\nhost = \"{}\"{}",
        target.host,
        ports_line(via, target)
    )
}

fn ports_line(via: Via, target: &Target) -> String {
    match target.port == via.default_port() {
        true => String::new(),
        false => format!("\nports = [{}]", target.port),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::super::{Fallback, PolicyConfig, RegistryConfig};
    use super::*;

    fn mend(rules: Vec<RuleConfig>, user: Option<&str>, target: &str) -> String {
        let mut own = RegistryConfig::new("registry.example".parse().unwrap());
        own.ports = vec![443, 5000];
        let default = Fallback::Deny;
        let policy = Policy::new(PolicyConfig { default, rules }, vec![own], true);
        let client = "10.0.0.7".parse().unwrap();
        let target = target.parse().unwrap();
        match policy.decide(client, user, Via::Connect, &target).action {
            Action::Deny { mend, .. } => mend,
            other => panic!("not denied: {other:?}"),
        }
    }

    #[test]
    fn a_rule_before_a_registry_is_to_be_changed_and_no_tunnel_goes_past_the_cache() {
        let mut contractor = rule(RuleAction::Deny, "registry.example");
        contractor.users = vec!["contractor".to_owned()];
        contractor.clients = vec!["10.0.0.0/8".parse().unwrap()];
        let text = mend(vec![contractor], Some("contractor"), "registry.example:443");
        assert_eq!(
            text,
            "registry registry.example would answer it. In pierhead.toml, change [[policy.rule]] number 1 so that it does not speak of registry.example:443 for the user contractor from 10.0.0.7 any more, or remove it."
        );
        let other = rule(RuleAction::Deny, "elsewhere.example");
        let all = vec![
            rule(RuleAction::Deny, "*.docker.io"),
            other,
            rule(RuleAction::Deny, "registry-1.docker.io"),
        ];
        let text = mend(all, None, "registry-1.docker.io:443");
        assert!(
            text.contains("number 1 and 3 so that they do not"),
            "{text}"
        );
        assert!(!text.contains("tunnel"), "{text}");
    }

    #[test]
    fn what_no_registry_answers_is_let_through_by_a_tunnel_before_the_rule_for_who_was_denied() {
        let mut deny = rule(RuleAction::Deny, "*.example");
        deny.users = vec!["dev".to_owned(), "ci".to_owned()];
        let text = mend(vec![deny], Some("dev"), "packages.example:443");
        assert_eq!(
            text,
            "To let it through all the same, put this before [[policy.rule]] number 1 in pierhead.toml:\n[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"packages.example\"]\nusers = [\"dev\"]"
        );
        // The rule after it would let it through, were it not for the first.
        let rules = vec![
            rule(RuleAction::Deny, "registry.example"),
            rule(RuleAction::Tunnel, "registry.example"),
        ];
        let text = mend(rules, None, "registry.example:443");
        assert!(text.contains("before [[policy.rule]] number 1"), "{text}");
    }

    #[test]
    fn a_rule_for_others_is_widened_by_the_one_who_asked_and_opens_nothing_to_all() {
        let mut near = rule(RuleAction::Tunnel, "packages.example");
        near.clients = vec!["192.168.0.0/16".parse().unwrap()];
        near.users = vec!["ci".to_owned()];
        let text = mend(vec![near.clone()], Some("dev"), "packages.example:443");
        assert!(
            text.ends_with(
                "hosts = [\"packages.example\"]\nclients = [\"10.0.0.7\"]\nusers = [\"dev\"]"
            ),
            "{text}"
        );
        near.clients.clear();
        let text = mend(vec![near], None, "packages.example:443");
        assert!(text.starts_with("Ask as one of the users"), "{text}");
        assert!(
            !text.contains("[\"ci\"]") && !text.contains("hosts ="),
            "{text}"
        );
    }

    #[test]
    fn another_port_of_a_registry_is_a_port_of_its_entry_though_a_rule_names_the_host() {
        let near = rule(RuleAction::Tunnel, "registry.example");
        let text = mend(vec![near.clone()], None, "registry.example:8443");
        assert!(
            text.ends_with("the one of registry.example:\nports = [443, 5000, 8443]"),
            "{text}"
        );
        let text = mend(vec![], None, "ghcr.io:8443");
        assert!(
            text.ends_with("[[registry]]\nhost = \"ghcr.io\"\nports = [443, 8443]"),
            "{text}"
        );
    }
}
