//! `cache verify`: every object hashed anew.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use argh::{ArgsInfo, FromArgs};
use http::{Method, StatusCode};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;

use super::with;
use crate::cli::api::{Api, Refused, read};
use crate::cli::words::{bytes, count};
use crate::cli::{complain, say};

/// Hash every object anew. What is damaged is removed, and fetched again when somebody asks for it; the
/// command fails then.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "verify")]
pub(super) struct CacheVerify {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// print JSON, as /api/v1/cache/verification does
    #[argh(switch)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Verification {
    running: bool,
    done: u64,
    of: u64,
    bytes: u64,
    damaged: Vec<String>,
    missing: u64,
    unreadable: u64,
}

// === impl CacheVerify ===

impl CacheVerify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let answer = with(self.config, self.gateway, async |api| follow(api).await)?;
        let found: Verification = read(&answer)?;
        if self.json {
            say(&format!("{answer:#}\n"));
        } else {
            for digest in &found.damaged {
                say(&format!("{digest}  was damaged; it is removed\n"));
            }
            let (objects, size) = (count(found.done, "object"), bytes(found.bytes));
            say(&format!("{objects}, {size} looked at\n"));
        }
        let damaged = found.damaged.len() as u64;
        match damaged + found.missing + found.unreadable {
            0 => Ok(()),
            _ => bail!(
                "{damaged} damaged, {} missing, {} unreadable",
                found.missing,
                found.unreadable
            ),
        }
    }
}

/// Starts it, or joins the one that is under way, and stays to its end.
async fn follow(api: &Api) -> anyhow::Result<Value> {
    let path = "/api/v1/cache/verification";
    match api.ask(Method::POST, path, None).await {
        Ok(_) => {}
        Err(e) => match e.downcast_ref::<Refused>() {
            Some(refused) if refused.status == StatusCode::CONFLICT => {
                complain("a verification is under way already; this is what it finds");
            }
            _ => return Err(e),
        },
    }
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    let mut ticks = tokio::time::interval(OFTEN);
    loop {
        ticks.tick().await;
        let answer = api.get(path).await?;
        let now: Verification = read(&answer)?;
        bar.set_length(now.of);
        bar.set_position(now.done);
        if !now.running {
            bar.finish_and_clear();
            return Ok(answer);
        }
    }
}

const BAR: &str = "verifying [{bar:30}] {pos} of {len} objects, {eta} left";
const OFTEN: Duration = Duration::from_millis(100);
