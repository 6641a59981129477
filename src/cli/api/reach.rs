//! Who answers: the gateway that is named, the one that has the cache directory, the one that listens
//! where the configuration says, or else this process on the directory itself.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::header::HeaderValue;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Api, Way, keep_alive};
use crate::admin::token::Handle;
use crate::app::{Directory, StoreError};
use crate::cli::{Misused, load};
use crate::config::Config;
use crate::tls::Roots;

/// What a command is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Purpose {
    /// Something must be there already.
    Use,
    /// A directory is made where there is none.
    Fill,
}

/// Where an admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    https: bool,
    /// Without brackets.
    host: String,
    port: u16,
}

// === impl Api ===

impl Api {
    /// Finds who answers. `gateway` is `--gateway`, `config` is `--config`.
    pub async fn reach(
        config: Option<&Path>,
        gateway: Option<&str>,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let login = variable("PIERHEAD_LOGIN")?;
        if let Some(named) = gateway {
            let (place, userinfo) = Place::parse(named)?;
            if userinfo.is_some_and(|userinfo| userinfo.contains(':')) {
                return Err(Misused(
                    "a password in --gateway would stand in the process list; put the URL into PIERHEAD_GATEWAY, or the login into PIERHEAD_LOGIN=NAME:PASSWORD".to_owned(),
                )
                .into());
            }
            return Self::gateway(place, login.as_deref());
        }
        if let Some(named) = variable("PIERHEAD_GATEWAY")? {
            let (place, userinfo) = Place::parse(&named)?;
            return Self::gateway(place, login.as_deref().or(userinfo.as_deref()));
        }
        let config = load(config)?;
        if let Some(api) = Self::listening(&config, login.as_deref()).await? {
            return Ok(api);
        }
        Self::directory(&config, purpose).await
    }

    fn gateway(place: Place, login: Option<&str>) -> anyhow::Result<Self> {
        let tls = match place.https {
            false => None,
            true => Some(TlsConnector::from(Arc::new(
                Roots::load(None)?.0.client_config()?,
            ))),
        };
        let basic = |login| format!("Basic {}", BASE64_STANDARD.encode(login));
        Ok(Self {
            way: Way::Gateway { place, tls },
            login: login.map(|login| secret(&basic(login))).transpose()?,
        })
    }

    /// The gateway that runs by this configuration, if one does.
    async fn listening(config: &Config, login: Option<&str>) -> anyhow::Result<Option<Self>> {
        // Who may read the cache directory may use it.
        let handle = Handle::read(&config.cache.dir).ok().flatten();
        if let Some(handle) = handle {
            let (place, _) = Place::parse(&handle.address)?;
            let api = Self {
                way: Way::Gateway { place, tls: None },
                login: Some(secret(&format!("Bearer {}", handle.token))?),
            };
            // A file of a gateway that has gone names nobody, or somebody else.
            if api.is_answered().await == Some(true) {
                return Ok(Some(api));
            }
        }
        let Some(address) = config.listen.admin.filter(|address| address.port() != 0) else {
            return Ok(None);
        };
        let (place, _) = Place::parse(&address.to_string())?;
        let api = Self::gateway(place, login)?;
        Ok(api.is_answered().await.map(|_| api))
    }

    /// Whether a gateway is there, and lets this command in.
    async fn is_answered(&self) -> Option<bool> {
        let asked = tokio::time::timeout(PATIENCE, self.get("/api/v1/status")).await;
        match asked.ok()? {
            Ok(status) => status.get("ca_fingerprint").map(|_| true),
            Err(e) => {
                let refused = e.downcast_ref::<super::Refused>()?;
                (refused.status == http::StatusCode::UNAUTHORIZED).then_some(false)
            }
        }
    }

    async fn directory(config: &Config, purpose: Purpose) -> anyhow::Result<Self> {
        let dir = &config.cache.dir;
        let path = dir.display().to_string();
        let nobody = match config.listen.admin {
            Some(address) if address.port() != 0 => format!("no gateway answers at {address}"),
            _ => "no gateway runs here".to_owned(),
        };
        match std::fs::metadata(dir) {
            Ok(meta) => {
                let own = rustix::process::geteuid().as_raw();
                if meta.uid() != own {
                    bail!(
                        "{nobody}, and the cache directory {path} belongs to another user, whose gateway could not read what this one writes: sudo -u '#{}' pierhead …",
                        meta.uid()
                    );
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && purpose == Purpose::Use => bail!(
                "{nobody}, and there is no cache directory {path}; name the gateway with --gateway http://HOST:3129, or its configuration with --config FILE"
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("the cache directory {path}")),
        }
        match Directory::open(config).await {
            Ok(directory) => Ok(Self {
                way: Way::Directory {
                    directory: Box::new(directory),
                    path,
                },
                login: None,
            }),
            Err(e) => match e.downcast_ref::<StoreError>() {
                Some(StoreError::Locked { holder, .. }) => {
                    let holder =
                        holder.map_or("another process".to_owned(), |id| format!("process {id}"));
                    Err(anyhow!(
                        "{nobody}, and {holder} has the cache directory {path}: if that is another command, try again when it has ended; if it is a gateway, name its admin address with --gateway http://HOST:PORT"
                    ))
                }
                _ => Err(e),
            },
        }
    }
}

// === impl Place ===

impl Place {
    /// Reads `http://HOST:PORT`, `https://…` or `HOST:PORT`, and what stands before an `@`.
    fn parse(text: &str) -> anyhow::Result<(Self, Option<String>)> {
        let wrong = || {
            // The text is not repeated: it may hold a password.
            Misused(
                "the gateway is named by its admin address, for example http://127.0.0.1:3129"
                    .to_owned(),
            )
        };
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = full.parse().map_err(|_| wrong())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong().into()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong().into());
        }
        let authority = uri.authority().ok_or_else(wrong)?;
        let userinfo = authority.as_str().rsplit_once('@');
        let userinfo =
            userinfo.map(|(userinfo, _)| percent_decode_str(userinfo).decode_utf8_lossy());
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(wrong().into());
        }
        let place = Self {
            https,
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if https { 443 } else { ADMIN_PORT }),
        };
        Ok((place, userinfo.map(|userinfo| userinfo.into_owned())))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// As it stands in `Host`.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(super) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let socket = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .with_context(|| format!("no gateway answers at {self}"))?;
        keep_alive(&socket);
        Ok(socket)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// A variable that is set to something.
fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => Ok(Some(text)),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Misused(format!("{name} is no text")).into()),
    }
}

fn secret(text: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)?;
    value.set_sensitive(true);
    Ok(value)
}

const PATIENCE: Duration = Duration::from_secs(10);
/// `listen.admin` where nobody says otherwise.
const ADMIN_PORT: u16 = 3129;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_named_by_a_url_or_by_its_address() {
        for (text, shown) in [
            ("http://gateway.corp:3129", "http://gateway.corp:3129"),
            ("http://gateway.corp:3129/", "http://gateway.corp:3129"),
            ("gateway.corp", "http://gateway.corp:3129"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://admin.corp", "https://admin.corp:443"),
            ("http://[::1]:3129", "http://[::1]:3129"),
        ] {
            assert_eq!(Place::parse(text).unwrap().0.to_string(), shown, "{text}");
        }
        for text in ["", "ftp://a", "http://a/path", "http://a?b", "a b"] {
            let e = Place::parse(text).unwrap_err();
            assert!(e.is::<Misused>(), "{text}");
        }
    }

    #[test]
    fn a_login_is_read_and_never_shown() {
        let (place, userinfo) = Place::parse("http://ops:s%40cret@gateway:3129").unwrap();
        assert_eq!(userinfo.as_deref(), Some("ops:s@cret"));
        assert!(!format!("{place} {place:?}").contains("cret"));
        let e = Place::parse("ftp://ops:hidden@gateway").unwrap_err();
        assert!(!format!("{e:?}").contains("hidden"));
    }
}
