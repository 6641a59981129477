//! `pierhead check HOST --online`: what the registry itself says.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::app;
use crate::config::Config;
use crate::policy::{Policy, Target};

/// Asks the registry of `target` as the gateway would, and says whether something has to be mended.
pub(super) fn online(
    config: &Config,
    policy: &Policy,
    target: &Target,
    client: IpAddr,
    user: Option<&str>,
) -> anyhow::Result<(String, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asking = app::probe(config, policy, target, client, user);
    let probe = match runtime.block_on(asking)? {
        Ok(probe) => probe,
        Err(why) => return Ok((format!("{:<12} {why}\n", "online"), false)),
    };
    let mut text = String::new();
    for (asked, said) in &probe.steps {
        writeln!(text, "{asked:<12} {said}")?;
    }
    Ok((text, probe.failed))
}
