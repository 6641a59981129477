//! `upstream.proxy` and `upstream.no_proxy`: checked here, so that an error names the key; what they
//! hold is repeated by none, for it may be a password.

use http::Uri;

use super::units::{Net, Secret};
use crate::policy::Host;

/// A parent proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentConfig {
    /// Its address, with the login: `http`, `https` or `socks5`.
    pub url: Secret,
    /// Hosts, suffixes and networks that are reached without it.
    pub no_proxy: Vec<String>,
}

impl ParentConfig {
    /// The host in its address.
    pub fn host(&self) -> Option<Host> {
        let uri: Uri = self.url.reveal().parse().ok()?;
        uri.host()?.parse().ok()
    }
}

/// What is wrong with an `upstream.proxy`, if anything.
pub fn check_url(url: &Secret) -> Result<(), &'static str> {
    let text = url.reveal();
    // A fragment would cut the address short, silently.
    let uri = match text.parse::<Uri>() {
        Ok(uri) if !text.contains('#') => uri,
        _ => return Err(NO_ADDRESS),
    };
    if !matches!(
        uri.scheme_str(),
        Some("http" | "https" | "socks5" | "socks5h")
    ) {
        return Err("the address must begin with http://, https:// or socks5://");
    }
    if uri.path() != "/" && !uri.path().is_empty() || uri.query().is_some() {
        return Err(
            "the address must end with the host and port; in a password a / is written as %2F and a ? as %3F",
        );
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.matches('@').count() > 1 {
        return Err("an @ in the user name or password is written as %40");
    }
    if uri.host().is_none_or(|host| host.parse::<Host>().is_err()) {
        return Err("this names no host; say for example \"http://parent:8080\"");
    }
    let place = authority.rsplit('@').next().unwrap_or_default();
    let after_host = place.rsplit(']').next().unwrap_or_default();
    if after_host.contains(':') && uri.port_u16().is_none_or(|port| port == 0) {
        return Err("its port is none (1 to 65535)");
    }
    Ok(())
}

/// What is wrong with an entry of `upstream.no_proxy`, if anything.
pub fn check_exception(entry: &str) -> Result<(), String> {
    let entry = entry.trim();
    let suffix = entry.strip_prefix('.').unwrap_or(entry);
    if entry == "*" || entry.parse::<Net>().is_ok() || suffix.parse::<Host>().is_ok() {
        return Ok(());
    }
    Err(match entry.strip_prefix("*.") {
        Some(rest) => format!("{entry:?}: a suffix is written without the star, \".{rest}\""),
        None => format!(
            "{entry:?} is no host, suffix or network; say for example [\"registry.corp\", \".intranet.example\", \"10.0.0.0/8\"]"
        ),
    })
}

const NO_ADDRESS: &str = "this is not an address; say for example \"http://user:password@parent:8080\", with %40 for an @ in the password and %3A, %2F, %23, %25 for : / # %";
