//! What a denied caller reads: which rule, why, and the lines that would allow it.

use std::net::IpAddr;

use super::builtin::{self, Known};
use super::hosts::Target;
use super::rules::{Fit, Via};
use super::{Action, Policy};

/// Denied by `[[policy.rule]]` number `number`.
pub(super) fn by_rule(number: usize, via: Via, target: &Target) -> Action {
    Action::Deny {
        reason: format!("policy.rule {number} denies {target}"),
        mend: format!(
            "To let it through all the same, put this before [[policy.rule]] number {number} in pierhead.toml:\n{}",
            tunnel_lines(via, target)
        ),
    }
}

/// Denied because nothing allows it.
pub(super) fn by_default(
    policy: &Policy,
    client: IpAddr,
    user: Option<&str>,
    via: Via,
    target: &Target,
) -> Action {
    let host = &target.host;
    let tunnel = tunnel_lines(via, target);
    let (reason, mend) = if let Some(near) = near_rule(policy, client, user, via, target) {
        (
            format!("policy.default = \"deny\": {near}"),
            format!("To let it through, widen that rule in pierhead.toml or add:\n{tunnel}"),
        )
    } else if let Some(place) = policy.sites.iter().find(|p| p.pattern.covers(host)) {
        let name = super::RuleName::of(&place.site.registry);
        let ports = &place.ports;
        (
            format!(
                "policy.default = \"deny\": {name} is answered on port {ports}, not as {target}"
            ),
            match place.site.role.is_registry() {
                true => format!(
                    "To answer it there too, say so in pierhead.toml:\n[[registry]]\nhost = \"{host}\"\nports = {:?}",
                    if target.port == 443 {
                        vec![443]
                    } else {
                        vec![443, target.port]
                    },
                ),
                false => format!("To let it through, add to pierhead.toml:\n{tunnel}"),
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

/// The first rule that would have let it through but for one thing.
fn near_rule(
    policy: &Policy,
    client: IpAddr,
    user: Option<&str>,
    via: Via,
    target: &Target,
) -> Option<String> {
    let tunnels = policy
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.action == super::RuleAction::Tunnel);
    tunnels
        .filter_map(|(at, rule)| match rule.fits(client, user, via, target) {
            Fit::Nearly(but) => Some(format!(
                "policy.rule {} names {}, but {but} (client {client}, {target})",
                at + 1,
                target.host
            )),
            _ => None,
        })
        .next()
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
