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
    if let Some(address) = first {
        let shown = match address.ip().is_unspecified() {
            true => format!("GATEWAY:{}", address.port()),
            false => address.to_string(),
        };
        text.push_str(&format!(
            "\nA Docker host (as root) is set up by these two lines and a restart of docker:\n\n  \
             curl -fsS http://{shown}/ca.crt -o /usr/local/share/ca-certificates/pierhead.crt && update-ca-certificates\n  \
             mkdir -p /etc/systemd/system/docker.service.d && printf '[Service]\\nEnvironment=HTTPS_PROXY=http://{shown}\\n' > /etc/systemd/system/docker.service.d/pierhead.conf && systemctl daemon-reload\n"
        ));
        if address.ip().is_loopback() {
            text.push_str("\nIt listens on loopback only; [listen] proxy = [\"0.0.0.0:3128\"] opens it to the network.\n");
        }
    }
    text.push_str("\nready\n");
    Ok(text)
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
