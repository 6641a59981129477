//! What the admin listener may ask of the whole gateway.

use std::sync::Arc;
use std::time::Duration;

use super::{Reloader, parts};
use crate::admin::steering::{Ca, Later, ReloadReport, Steering};
use crate::connect::Gateway;
use crate::policy::Policy;

/// Steers a running gateway.
pub struct Helm {
    pub gateway: Arc<Gateway>,
    pub reloader: Arc<Reloader>,
    /// Addresses as clients write them.
    pub doors: Vec<String>,
}

// === impl Helm ===

impl Steering for Helm {
    fn policy(&self) -> Arc<Policy> {
        self.gateway.live.load().policy.clone()
    }

    fn ca(&self) -> Ca {
        let authority = self.gateway.leaves.authority();
        Ca {
            fingerprint: authority.fingerprint().to_string(),
            pem: authority.certificate_pem().to_owned(),
        }
    }

    fn tag_ttl(&self, registry: &str, tag: &str) -> Duration {
        let live = self.gateway.live.load();
        parts::tag_ttl(&live.policy, registry, tag, live.rules.tag_ttl)
    }

    fn refused(&self) -> Option<String> {
        self.reloader.refused()
    }

    fn doors(&self) -> Vec<String> {
        self.doors.clone()
    }

    fn reload(&self) -> Later<'_, Result<ReloadReport, String>> {
        Box::pin(async {
            let report = self.reloader.reload().await.map_err(|e| e.to_string())?;
            Ok(ReloadReport {
                changed: report.changed,
                needs_restart: report.needs_restart,
                warnings: report.warnings,
            })
        })
    }

    fn switch(&self, registry: String, enabled: bool) -> Later<'_, Result<String, String>> {
        Box::pin(async move {
            let switched = self.reloader.set_enabled(&registry, enabled).await;
            switched.map_err(|e| e.to_string())
        })
    }
}
