//! `pierhead cache`: what is in the cache, and what is to stay or to go.

mod change;
mod look;
mod verify;

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use self::change::{CachePin, CachePrune, CacheRm, CacheUnpin};
use self::look::{CacheLs, CacheShow, CacheStats};
use self::verify::CacheVerify;
use super::api::{Api, Purpose};
use super::run_async;

/// List, show, verify, prune, remove and pin what is cached.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "cache")]
pub struct Cache {
    #[argh(subcommand)]
    command: CacheCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum CacheCommand {
    Ls(CacheLs),
    Show(CacheShow),
    Stats(CacheStats),
    Verify(CacheVerify),
    Prune(CachePrune),
    Rm(CacheRm),
    Pin(CachePin),
    Unpin(CacheUnpin),
}

// === impl Cache ===

impl Cache {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            CacheCommand::Ls(args) => args.run(),
            CacheCommand::Show(args) => args.run(),
            CacheCommand::Stats(args) => args.run(),
            CacheCommand::Verify(args) => args.run(),
            CacheCommand::Prune(args) => args.run(),
            CacheCommand::Rm(args) => args.run(),
            CacheCommand::Pin(args) => args.run(),
            CacheCommand::Unpin(args) => args.run(),
        }
    }
}

/// Does something with whoever has the cache, as `--config` and `--gateway` name it, and lets go of it.
fn with<T>(
    config: Option<PathBuf>,
    gateway: Option<String>,
    work: impl AsyncFnOnce(&Api) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    run_async(async {
        let api = Api::reach(config.as_deref(), gateway.as_deref(), Purpose::Use).await?;
        let result = work(&api).await;
        api.close().await;
        result
    })
}
