//! `pierhead ca`: the certificate authority, shown, made, renewed.

use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};

use super::{complain, load, policy, say};
use crate::app;
use crate::tls::Authority;

/// Show, make or renew the certificate authority.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "ca")]
pub struct Ca {
    #[argh(subcommand)]
    command: CaCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum CaCommand {
    Show(CaShow),
    Init(CaInit),
    Renew(CaRenew),
}

/// Show the CA: its fingerprint, its life, and the names it may sign for.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "show")]
struct CaShow {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
}

/// Make the CA, if there is none yet. An existing key is never overwritten; with --new-key, for one that
/// others may have, it is kept aside, and all clients need the new ca.crt.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "init")]
struct CaInit {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// make a new key although there is one
    #[argh(switch)]
    new_key: bool,
}

/// Issue the CA's certificate anew, with the same key and new dates. Clients need the new file.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "renew")]
struct CaRenew {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
}
// === impl Ca ===

impl Ca {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            CaCommand::Show(args) => ca_show(args.config.as_deref()),
            CaCommand::Init(args) if args.new_key => ca_replace(args.config.as_deref()),
            CaCommand::Init(args) => ca_init(args.config.as_deref()),
            CaCommand::Renew(args) => ca_renew(args.config.as_deref()),
        }
    }
}

fn ca_show(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let (authority, notices) = Authority::open(&app::ca_config(&config, &policy(&config)))?;
    say(&authority.describe());
    for notice in notices {
        complain(&notice.to_string());
    }
    Ok(())
}

fn ca_init(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let (authority, notices) = app::authority(&config, &policy(&config))?;
    for notice in notices {
        complain(&notice.to_string());
    }
    say(&authority.describe());
    Ok(())
}

fn ca_replace(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let policy = policy(&config);
    // There must be something to replace.
    let (old, _) = Authority::open(&app::ca_config(&config, &policy))?;
    let before = old.fingerprint().to_owned();
    let (ca, names) = (
        app::ca_config(&config, &policy),
        app::name_constraints(&config, &policy),
    );
    let (authority, _, aside) = old.replace(&ca, &names)?;
    say(&authority.describe());
    complain(&format!(
        "The old pair is kept as {} and {}; destroy them once no client trusts the old certificate any more.\n\
         Now: restart the gateway (until then it signs with the old key). On every client run the script of /setup/… again, or put the new ca.crt in the place of the old one; restart dockerd. Until then they refuse the gateway.\n\
         Take the old certificate, sha256 {before}, out of every store: whoever has its key can speak for the registries it names as long as somebody trusts it.",
        aside.certificate.display(),
        aside.key.display()
    ));
    Ok(())
}

fn ca_renew(file: Option<&Path>) -> anyhow::Result<()> {
    let config = load(file)?;
    let policy = policy(&config);
    // There must be something to renew.
    Authority::open(&app::ca_config(&config, &policy))?;
    let (authority, notices) = app::authority(&config, &policy)?;
    for notice in notices {
        complain(&notice.to_string());
    }
    let renewed = authority.renew()?;
    say(&renewed.describe());
    complain(
        "The key is the same: clients that trust the old certificate go on until it ends. Restart the gateway and give clients the new ca.crt.",
    );
    Ok(())
}
