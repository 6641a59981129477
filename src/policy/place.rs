//! Where a registry answers: each of its hosts, and what that is to it.

use std::sync::Arc;

use super::builtin::Known;
use super::{HostPattern, Ports, Registry, Role, Site};

/// Hosts of a registry, and what they do for it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pattern: HostPattern,
    pub(super) ports: Ports,
    pub(super) site: Arc<Site>,
}

pub(super) fn places(registry: &Arc<Registry>, row: Option<&Known>) -> Vec<Place> {
    let search = |host: &HostPattern| row.is_some_and(|row| row.search.contains(&host.as_str()));
    let place = |host: &HostPattern| {
        let role = match search(host) {
            true => Role::Search,
            false => Role::Registry,
        };
        place(host.clone(), registry.ports.clone(), registry, role)
    };
    registry.hosts.iter().map(place).collect()
}

pub(super) fn token_places(registry: &Arc<Registry>, row: Option<&Known>) -> Vec<Place> {
    let known = row.map_or(&[][..], |row| row.auth);
    let known = known.iter().filter_map(|(host, path_prefix)| {
        let role = Role::Auth {
            path_prefix: path_prefix.map(Arc::from),
        };
        let ports = Ports::new(Vec::new(), true);
        Some(place(host.parse().ok()?, ports, registry, role))
    });
    let configured = registry.token_hosts.iter().map(|token_host| {
        let role = Role::Auth {
            path_prefix: token_host.path.clone(),
        };
        let ports = Ports::new(
            token_host.port.into_iter().collect(),
            token_host.port.is_none(),
        );
        place(token_host.host.clone(), ports, registry, role)
    });
    configured.chain(known).collect()
}

fn place(pattern: HostPattern, ports: Ports, registry: &Arc<Registry>, role: Role) -> Place {
    let site = Arc::new(Site {
        registry: Arc::clone(registry),
        role,
    });
    Place {
        pattern,
        ports,
        site,
    }
}
