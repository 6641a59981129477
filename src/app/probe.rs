//! A registry asked on purpose, for `pierhead check HOST --online`.

use std::net::IpAddr;
use std::sync::Arc;

use super::parts::{robots, upstream};
use crate::config::Config;
use crate::policy::{Action, AuthMode, Policy, Target, Via};
use crate::registry::endpoint;
use crate::upstream::Probe;

/// Why a host is not asked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum NotAsked {
    #[error("nothing to ask: it is not answered as a registry")]
    NoRegistry,
    #[error("nothing to ask: enabled = false, and it is never dialled")]
    SwitchedOff,
}

/// Asks the registry of `target` as the gateway would for `client`, known as `user`.
pub async fn probe(
    config: &Config,
    policy: &Policy,
    target: &Target,
    client: IpAddr,
    user: Option<&str>,
) -> anyhow::Result<Result<Probe, NotAsked>> {
    let via = match target.port {
        80 => Via::Http,
        _ => Via::Connect,
    };
    let Action::Intercept(site) = policy.decide(client, user, via, target).action else {
        return Ok(Err(NotAsked::NoRegistry));
    };
    let Some(endpoint) = endpoint(&site, via, target).filter(|_| site.role.is_registry()) else {
        return Ok(Err(NotAsked::NoRegistry));
    };
    let registry = &site.registry;
    if !registry.enabled {
        return Ok(Err(NotAsked::SwitchedOff));
    }
    let own = match registry.auth {
        AuthMode::Client => None,
        AuthMode::Gateway | AuthMode::ClientOrGateway => {
            robots(config, policy).get(&registry.name).map(Arc::clone)
        }
    };
    let upstream = upstream(config, policy)?;
    Ok(Ok(upstream.probe(&endpoint, own).await))
}
