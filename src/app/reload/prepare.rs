//! Everything of a changed configuration that may fail, built before any of it counts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tracing::info;

use super::super::parts::{self, Unusable};
use super::super::wanting::missing_logins;
use super::{ReloadError, Report};
use crate::config::Config;
use crate::connect::{Gateway, Live};
use crate::policy::Policy;
use crate::tls::Authority;
use crate::upstream::Way;
use crate::upstream::credentials::Credentials;
use crate::users::{self, Fresh, Users};

/// All that may fail has not.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) live: Live,
    pub(super) users: Option<Fresh>,
    pub(super) admins: (Arc<Users>, Option<Fresh>),
    pub(super) way: Option<Way>,
    pub(super) authority: Option<Authority>,
    pub(super) report: Report,
}

/// Builds everything that `running` cannot keep. Blocking. What is written, the CA's certificate, comes
/// last.
pub(super) fn prepare(
    running: &Config,
    gateway: &Gateway,
    admins: &Arc<Users>,
) -> Result<Prepared, ReloadError> {
    let written = running.load_again()?;
    let changes = running.changes(&written);
    let (needs_restart, changed): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| change.needs_restart);
    let mut report = Report {
        changed: changed.into_iter().map(|change| change.key).collect(),
        needs_restart: needs_restart.into_iter().map(|change| change.key).collect(),
        warnings: written.warnings.clone(),
    };
    let missing = missing_logins(&written).into_iter();
    report
        .warnings
        .extend(missing.map(|one| one.error.to_string()));
    let config = written.as_far_as_reloadable(running);
    let before = gateway.live.load_full();

    let policy = Policy::new(
        config.policy.clone(),
        config.registries.clone(),
        config.builtin_registries,
    );
    let (way, warnings) = way(running, &config, &policy, gateway)?;
    report.warnings.extend(warnings);
    let file = config.users_file.as_deref();
    let (users, fresh) = users(&before.users, users::PROXY, file, gateway)?;
    let file = config.admin_users_file.as_deref();
    let admins = self::users(admins, users::ADMIN, file, gateway)?;
    match &fresh {
        Some(fresh) => report
            .warnings
            .extend(parts::strangers(&config, |user| fresh.knows(user))),
        None => report
            .warnings
            .extend(parts::strangers(&config, |user| users.knows(user))),
    }
    let robots = kept(parts::robots(&config, &policy), &before.rules.robots);

    let authority = authority(&config, &policy, gateway, &mut report)?;
    Ok(Prepared {
        live: Live {
            rules: Arc::new(parts::rules(&config, robots)),
            policy: Arc::new(policy),
            users,
            client_idle: config.limits.client_idle,
        },
        config,
        users: fresh,
        admins,
        way,
        authority,
        report,
    })
}

/// The users of `file`: those of before with what to take into them, or others.
fn users(
    before: &Arc<Users>,
    key: &'static str,
    file: Option<&Path>,
    gateway: &Gateway,
) -> Result<(Arc<Users>, Option<Fresh>), ReloadError> {
    if before.file() == file {
        let fresh = before.read_again().map_err(Unusable::new);
        return Ok((before.clone(), fresh.map_err(anyhow::Error::from)?));
    }
    let users = Users::open(key, file, gateway.metrics.clone()).map_err(Unusable::new);
    Ok((Arc::new(users.map_err(anyhow::Error::from)?), None))
}

/// Another way upstream, where something about it changed: the connections that wait in the old one's
/// pool are worth keeping. A file of roots, or of a certificate, may have changed under the same name.
fn way(
    running: &Config,
    config: &Config,
    policy: &Policy,
    gateway: &Gateway,
) -> Result<(Option<Way>, Vec<String>), ReloadError> {
    let (a, b) = (&running.upstream, &config.upstream);
    let same = a.ca_file.is_none()
        && b.ca_file.is_none()
        && running.registry_tls.is_empty()
        && config.registry_tls.is_empty()
        && a.parent == b.parent
        && a.allow_private == b.allow_private
        && a.resolve == b.resolve
        && running.limits.upstream_connect == config.limits.upstream_connect
        && running.limits.upstream_idle == config.limits.upstream_idle;
    if same {
        return Ok((None, Vec::new()));
    }
    let mut beyond = parts::beyond(config, policy).map_err(anyhow::Error::from)?;
    let parent = parts::parent(config, &beyond.tls, gateway.upstream.via().clone())?;
    let warnings = std::mem::take(&mut beyond.warnings);
    Ok((Some(parts::way(config, beyond, parent)), warnings))
}

/// The CA, where its certificate is another one by now.
fn authority(
    config: &Config,
    policy: &Policy,
    gateway: &Gateway,
    report: &mut Report,
) -> Result<Option<Authority>, ReloadError> {
    let (authority, notices) = parts::authority(config, policy)?;
    let before = gateway.leaves.authority();
    for notice in notices {
        match notice.is_warning() {
            true => report.warnings.push(notice.to_string()),
            false => info!("{notice}"),
        }
    }
    if authority.is(&before) {
        return Ok(None);
    }
    report.warnings.push(format!(
        "the certificate that clients trust has the fingerprint sha256 {} from here on, and had {}; they find it at /ca.crt",
        authority.fingerprint(),
        before.fingerprint()
    ));
    Ok(Some(authority))
}

/// A login from the same place goes on being the same: it has been read already.
fn kept(
    mut robots: HashMap<String, Arc<Credentials>>,
    before: &HashMap<String, Arc<Credentials>>,
) -> HashMap<String, Arc<Credentials>> {
    for (name, credentials) in &mut robots {
        if let Some(known) = before.get(name)
            && known.source() == credentials.source()
        {
            *credentials = known.clone();
        }
    }
    robots
}
