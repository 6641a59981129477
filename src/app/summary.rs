//! What a person who starts the gateway wants to know.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::Rooms;
use crate::config::Config;
use crate::listen::Door;
use crate::telemetry::build;

/// Where the gateway answers.
pub(super) struct Listening<'a> {
    pub doors: &'a [Door],
    pub admin: Option<&'a TcpListener>,
}

pub(super) fn summary(
    config: &Config,
    rooms: &Rooms,
    listening: &Listening<'_>,
) -> anyhow::Result<String> {
    let mut text = format!("{}\n\n", build::NAME);
    let mut first: Option<SocketAddr> = None;
    for door in listening.doors {
        let address = door.listener.local_addr()?;
        let scheme = match door.front {
            None => {
                first.get_or_insert(address);
                "http"
            }
            Some(_) => "https",
        };
        text.push_str(&format!("  proxy   {scheme}://{address}\n"));
    }
    if let Some(admin) = listening.admin {
        text.push_str(&format!("  admin   http://{}\n", admin.local_addr()?));
    }
    if let Some(parent) = &rooms.parent {
        text.push_str(&format!("  parent  {parent}\n"));
    }
    let authority = rooms.gateway.leaves.authority();
    text.push_str(&format!(
        "  CA      {}  sha256 {}\n",
        authority.path().display(),
        authority.fingerprint()
    ));
    text.push_str(&format!(
        "  cache   {}, at most {}, tags fresh for {}\n",
        config.cache.dir.display(),
        human(config.cache.max_size),
        humantime::format_duration(config.cache.tag_ttl),
    ));
    let live = rooms.gateway.live.load();
    let names: Vec<&str> = live
        .policy
        .registries()
        .iter()
        .map(|registry| registry.name.as_str())
        .collect();
    text.push_str(&format!("  caches  {}\n", wrapped(&names)));
    text.push_str(&match &config.file {
        Some(file) => format!("  config  {}\n", file.display()),
        None => {
            "  config  the built-in defaults; a file pierhead.toml here changes them\n".to_owned()
        }
    });
    if let Some(address) = first {
        text.push_str(&next_steps(address));
    }
    text.push_str("\nready\n");
    Ok(text)
}

/// The lines that a newcomer copies: for this machine, or for the network that it listens to.
fn next_steps(address: SocketAddr) -> String {
    let port = address.port();
    let (whose, shown) = if address.ip().is_loopback() {
        ("on this machine", address.to_string())
    } else if address.ip().is_unspecified() {
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        ("on each machine that pulls", format!("{name}:{port}"))
    } else {
        ("on each machine that pulls", address.to_string())
    };
    let mut text = format!(
        "\nNext, {whose} (containerd, podman, buildkit and kubernetes likewise; --undo takes it back):\n\n  \
         curl -fsSL http://{shown}/setup/docker | sudo sh\n  \
         docker pull alpine\n\n\
         It prints the CA's fingerprint: compare it with the one above.\n"
    );
    if address.ip().is_unspecified() {
        text.push_str("Where clients call this machine otherwise, write that in the address.\n");
    }
    if address.ip().is_loopback() {
        text.push_str(&format!(
            "It listens on loopback only. For the network: [listen] proxy = [\"0.0.0.0:{port}\"] in pierhead.toml, and start it again.\n"
        ));
    }
    text
}

fn wrapped(names: &[&str]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
            column += 2;
        }
        if column + name.len() > WIDTH {
            text.truncate(text.trim_end().len());
            text.push_str("\n          ");
            column = 0;
        }
        text.push_str(name);
        column += name.len();
    }
    text
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() < 0.05 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

const WIDTH: usize = 90;
