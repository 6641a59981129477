//! `[[policy.rule]]`: what the owner lets through untouched, or forbids.

use std::net::IpAddr;

use ipnet::IpNet;

use super::hosts::{HostPattern, Target};

/// What [`super::Policy::new`] needs of `[policy]`.
#[derive(Clone, Debug, Default)]
pub struct PolicyConfig {
    pub default: Fallback,
    /// The first that matches decides, before any registry.
    pub rules: Vec<RuleConfig>,
}

/// What happens to a target that nothing speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    Deny,
    /// Bytes go through untouched, on any port.
    Tunnel,
}

/// One `[[policy.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    pub action: RuleAction,
    pub hosts: Vec<HostPattern>,
    /// Empty: for a tunnel 443 by CONNECT and 80 by plain http; for a denial every port.
    pub ports: Vec<u16>,
    /// Empty: every client.
    pub clients: Vec<IpNet>,
    /// Empty: every user, and callers without one.
    pub users: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    Tunnel,
    Deny,
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// `CONNECT host:port`.
    Connect,
    /// `GET http://host/path`.
    Http,
}

/// Whether a rule speaks of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Matches,
    /// The host is the rule's but something else is not; what, to be read after "but".
    Nearly(&'static str),
    No,
}

impl Via {
    /// 443 for CONNECT, 80 for plain http.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Connect => 443,
            Self::Http => 80,
        }
    }
}

impl RuleConfig {
    pub(super) fn fits(
        &self,
        client: IpAddr,
        user: Option<&str>,
        via: Via,
        target: &Target,
    ) -> Fit {
        if !self.hosts.iter().any(|host| host.covers(&target.host)) {
            return Fit::No;
        }
        if !self.allows_port(via, target.port) {
            return Fit::Nearly(NOT_THIS_PORT);
        }
        let client = client.to_canonical();
        if !self.clients.is_empty() && !self.clients.iter().any(|net| net.contains(&client)) {
            return Fit::Nearly("not for this client's address");
        }
        let named = |user| self.users.iter().any(|listed| listed == user);
        if !self.users.is_empty() && !user.is_some_and(named) {
            return Fit::Nearly(NOT_THIS_USER);
        }
        Fit::Matches
    }

    fn allows_port(&self, via: Via, port: u16) -> bool {
        match (self.ports.as_slice(), self.action) {
            ([], RuleAction::Tunnel) => port == via.default_port(),
            // A denial that forgot a port would let through what it was written against.
            ([], RuleAction::Deny) => true,
            (listed, _) => listed.contains(&port),
        }
    }
}

pub(super) const NOT_THIS_PORT: &str = "not this port";
pub(super) const NOT_THIS_USER: &str = "not for this user";

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: RuleAction, hosts: &[&str]) -> RuleConfig {
        RuleConfig {
            action,
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ports: vec![],
            clients: vec![],
            users: vec![],
        }
    }

    fn fit(rule: &RuleConfig, client: &str, via: Via, target: &str) -> Fit {
        rule.fits(client.parse().unwrap(), None, via, &target.parse().unwrap())
    }

    #[test]
    fn a_tunnel_without_ports_means_443_by_connect_and_80_by_http() {
        let rule = rule(RuleAction::Tunnel, &["*.example"]);
        let near = Fit::Nearly("not this port");
        assert_eq!(
            fit(&rule, "::1", Via::Connect, "a.example:443"),
            Fit::Matches
        );
        assert_eq!(fit(&rule, "::1", Via::Http, "a.example:80"), Fit::Matches);
        assert_eq!(fit(&rule, "::1", Via::Connect, "a.example:80"), near);
        assert_eq!(fit(&rule, "::1", Via::Http, "a.example:8080"), near);
        assert_eq!(fit(&rule, "::1", Via::Connect, "a.other:443"), Fit::No);
    }

    #[test]
    fn a_denial_without_ports_means_every_port() {
        let rule = rule(RuleAction::Deny, &["a.example"]);
        assert_eq!(
            fit(&rule, "::1", Via::Connect, "a.example:22"),
            Fit::Matches
        );
    }

    #[test]
    fn listed_ports_are_the_only_ones() {
        let mut rule = rule(RuleAction::Tunnel, &["a.example"]);
        rule.ports = vec![8443];
        assert_eq!(
            fit(&rule, "::1", Via::Connect, "a.example:8443"),
            Fit::Matches
        );
        assert_ne!(
            fit(&rule, "::1", Via::Connect, "a.example:443"),
            Fit::Matches
        );
    }

    #[test]
    fn a_rule_for_some_clients_leaves_the_others_alone() {
        let mut rule = rule(RuleAction::Tunnel, &["a.example"]);
        rule.clients = vec!["10.0.0.0/8".parse().unwrap()];
        let near = Fit::Nearly("not for this client's address");
        assert_eq!(
            fit(&rule, "10.1.2.3", Via::Connect, "a.example:443"),
            Fit::Matches
        );
        // A dual-stack listener sees IPv4 clients so.
        assert_eq!(
            fit(&rule, "::ffff:10.1.2.3", Via::Connect, "a.example:443"),
            Fit::Matches
        );
        assert_eq!(
            fit(&rule, "192.168.1.1", Via::Connect, "a.example:443"),
            near
        );
    }

    #[test]
    fn a_rule_for_some_users_needs_one_of_them() {
        let mut rule = rule(RuleAction::Tunnel, &["a.example"]);
        rule.users = vec!["ci".to_owned()];
        let target = "a.example:443".parse().unwrap();
        let client = "10.0.0.1".parse().unwrap();
        let fits = |user| rule.fits(client, user, Via::Connect, &target);
        assert_eq!(fits(Some("ci")), Fit::Matches);
        assert_eq!(fits(Some("other")), Fit::Nearly("not for this user"));
        assert_eq!(fits(None), Fit::Nearly("not for this user"));
    }
}
