//! Which registry an image's name means here.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{PullError, Warm};
use crate::policy::{Action, Policy, Site, Target, Via};
use crate::registry::{RegistryRules, endpoint};
use crate::upstream::Endpoint;

/// A registry that is cached, and where it is asked.
pub(super) struct Place {
    written: String,
    site: Arc<Site>,
    rules: Arc<RegistryRules>,
    target: Target,
}

// === impl Warm ===

impl Warm {
    /// Finds a registry by the name that stands before an image's.
    pub(super) fn place(&self, registry: &str) -> Result<Place, PullError> {
        let (policy, rules) = (self.in_force)();
        let (target, site) = answered(&policy, registry)?;
        Ok(Place {
            written: registry.to_owned(),
            site,
            // A pull of the gateway's own asks for all of it anyway, and counts what it fetches.
            rules: Arc::new(RegistryRules {
                lookahead: false,
                ..RegistryRules::clone(&rules)
            }),
            target,
        })
    }
}

/// The registry of that name, where a pull of the gateway's own is answered as one.
pub fn answered(policy: &Policy, registry: &str) -> Result<(Target, Arc<Site>), PullError> {
    let target = policy.target_of(registry);
    let target = target.ok_or_else(|| PullError::NotCached {
        registry: registry.to_owned(),
    })?;
    let verdict = policy.decide(OWN_ADDRESS, None, Via::Connect, &target);
    let denied = |reason| PullError::Denied {
        registry: registry.to_owned(),
        reason,
    };
    match verdict.action {
        Action::Intercept(site) => Ok((target, site)),
        Action::Tunnel => Err(denied(format!("it is tunnelled ({})", verdict.rule))),
        Action::Deny { reason, .. } => Err(denied(format!("{reason} ({})", verdict.rule))),
    }
}

// === impl Place ===

impl Place {
    pub(super) fn site(&self) -> Arc<Site> {
        self.site.clone()
    }

    pub(super) fn rules(&self) -> Arc<RegistryRules> {
        self.rules.clone()
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint, PullError> {
        let found = endpoint(&self.site, Via::Connect, &self.target);
        found.ok_or_else(|| PullError::NotCached {
            registry: self.written.clone(),
        })
    }

    /// As the cache keeps it apart from others.
    pub(super) fn origin(&self) -> Result<String, PullError> {
        Ok(self.endpoint()?.id)
    }
}

/// Rules for clients speak of the engine by this address.
pub(super) const OWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
