//! The addresses of `[listen]`, held against each other.

use std::net::{IpAddr, SocketAddr};

use super::error::{ConfigError, KeyPath};
use super::file::Listen;
use super::places::Places;

/// Two doors at one address: the second could never be opened.
pub(super) fn check(listen: &Listen, places: &Places) -> Result<(), ConfigError> {
    let proxy = listen.proxy.iter().map(|address| (PROXY, address.0.0));
    let tls = listen
        .proxy_tls
        .iter()
        .map(|address| (PROXY_TLS, address.0.0));
    let admin = listen.admin.0.iter().map(|address| (ADMIN, address.0));
    let mut seen: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in proxy.chain(tls).chain(admin) {
        let taken = seen.iter().find(|(_, other)| collide(address, *other));
        let Some((earlier, theirs)) = taken.copied() else {
            seen.push((key, address));
            continue;
        };
        // A default has no line; whoever wrote the other one has to look there.
        let (blamed, address, other, theirs) = match places.has(key) {
            true => (key, address, earlier, theirs),
            false => (earlier, theirs, key, address),
        };
        let by_default = if places.has(other) { "" } else { " by default" };
        let name = blamed.rsplit('.').next().unwrap_or(blamed);
        let message = match blamed == other && address == theirs {
            true => format!("{address} stands there twice; leave one out"),
            false => format!(
                "{address} cannot be listened on, because `{other}`{by_default} has {theirs}; say another port for {name}, or leave one of them out"
            ),
        };
        let key = KeyPath::new(blamed, None);
        return Err(ConfigError::Value {
            origin: places.origin(&key),
            key,
            message,
        });
    }
    Ok(())
}

// === helpers ===

/// Whether the system would refuse the second of the two. `[::]` beside an IPv4 address is left to it:
/// there it is a matter of `net.ipv6.bindv6only`.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    let all = |ip: IpAddr| ip.is_unspecified();
    // Each port 0 is a port of its own.
    one.port() == other.port()
        && one.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a == b || all(a) || all(b))
}

const PROXY: &str = "listen.proxy";
const PROXY_TLS: &str = "listen.proxy_tls";
const ADMIN: &str = "listen.admin";
