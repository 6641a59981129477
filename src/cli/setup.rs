//! `pierhead setup`: the script that sets a client machine up.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use argh::{ArgsInfo, FromArgs};

use super::{Misused, load, policy, say};
use crate::app;
use crate::config::Config;
use crate::setup::{Client, Kit, Place, Scheme};
use crate::tls::Authority;

/// Print the script that sets a client up against this gateway, as /setup/CLIENT serves it: docker,
/// containerd, podman, buildkit, or kubernetes (a manifest). Run it with: pierhead setup docker | sudo sh
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "setup")]
pub struct Setup {
    /// configuration file of the gateway
    #[argh(option)]
    config: Option<PathBuf>,
    /// where clients find the gateway, such as http://gateway.example:3128 (default: from [listen], as is
    /// the port where none is written)
    #[argh(option)]
    gateway: Option<String>,
    /// the script takes everything back
    #[argh(switch)]
    undo: bool,
    /// the script only says what it would do
    #[argh(switch)]
    dry_run: bool,
    /// docker, containerd, podman, buildkit or kubernetes
    #[argh(positional)]
    client: String,
}

// === impl Setup ===

impl Setup {
    pub fn run(self) -> anyhow::Result<()> {
        let misused = |e: &dyn std::fmt::Display| Misused(e.to_string());
        let client: Client = self.client.parse().map_err(|e| misused(&e))?;
        let config = load(self.config.as_deref())?;
        let place = match &self.gateway {
            Some(text) => {
                Place::written(text, |scheme| port(&config, scheme)).map_err(|e| misused(&e))?
            }
            None => place(&config)?,
        };
        let policy = policy(&config);
        let (authority, _) = Authority::open(&app::ca_config(&config, &policy))
            .context("the script carries the gateway's CA")?;
        let kit = Kit::new(
            &policy,
            authority.certificate_pem(),
            authority.fingerprint(),
        );
        let mut options = Vec::new();
        if self.undo {
            options.push("--undo");
        }
        if self.dry_run {
            options.push("--dry-run");
        }
        say(&kit.script(client, &place, &options));
        Ok(())
    }
}

/// The first address of `[listen]`; this machine's name where it is bound to no address in particular.
fn place(config: &Config) -> anyhow::Result<Place> {
    let listen = &config.listen;
    let plain = listen.proxy.iter().map(|address| (Scheme::Http, address));
    let tls = listen
        .proxy_tls
        .iter()
        .map(|address| (Scheme::Https, address));
    let unknown =
        || Misused("say where clients find the gateway: --gateway http://NAME:PORT".to_owned());
    let (scheme, address) = plain.chain(tls).next().ok_or_else(unknown)?;
    if address.port() == 0 {
        return Err(unknown().into());
    }
    let host = match address.ip().is_unspecified() {
        false => address.ip().to_string(),
        true => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let host = host.parse().map_err(|_| unknown())?;
    Ok(Place::new(scheme, host, address.port()))
}

/// The port that the gateway listens to; the usual ones where the configuration has none.
fn port(config: &Config, scheme: Scheme) -> u16 {
    let (addresses, usual) = match scheme {
        Scheme::Http => (&config.listen.proxy, 3128),
        Scheme::Https => (&config.listen.proxy_tls, 443),
    };
    let mut ports = addresses.iter().map(SocketAddr::port);
    ports.find(|port| *port != 0).unwrap_or(usual)
}
