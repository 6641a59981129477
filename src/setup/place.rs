//! Where clients find the gateway.

use std::fmt;
use std::str::FromStr;

use crate::policy::{Host, Target, TargetError};

/// The gateway's address as clients are to write it: no login, no path. It goes into scripts that run
/// as root, so that nothing but a host and a port may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub scheme: Scheme,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// A text that is no address of a gateway.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no address of a gateway: {1}; it is to be like http://gateway.example:3128")]
pub struct NoPlace(String, String);

// === impl Place ===

impl Place {
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Self {
        let target = Target::new(host, port);
        Self { scheme, target }
    }

    /// The place that a request was sent to, by its `Host`.
    pub fn asked(scheme: Scheme, host: &str) -> Result<Self, NoPlace> {
        let wrong = |e: TargetError| NoPlace(host.escape_debug().to_string(), e.to_string());
        let target = match (host.parse::<Target>(), host.parse::<Host>()) {
            (Err(_), Ok(name)) => Target::new(name, scheme.port()),
            (target, _) => target.map_err(wrong)?,
        };
        Ok(Self { scheme, target })
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            None => (Scheme::Http, text),
            Some(_) => {
                return Err(NoPlace(
                    text.escape_debug().to_string(),
                    "it is neither http nor https".into(),
                ));
            }
        };
        Self::asked(scheme, rest.strip_suffix('/').unwrap_or(rest))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.target)
    }
}

// === impl Scheme ===

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_all_that_may_be_in_it() {
        for (asked, place) in [
            ("gw.corp:3128", "http://gw.corp:3128"),
            ("GW", "http://gw:80"),
            ("10.0.0.1:3128", "http://10.0.0.1:3128"),
            ("[fd00::1]:3128", "http://[fd00::1]:3128"),
        ] {
            assert_eq!(
                Place::asked(Scheme::Http, asked).unwrap().to_string(),
                place
            );
        }
        for wrong in [
            "",
            "gw:",
            "gw:0",
            "gw:99999",
            "gw:3128/x",
            "a b:1",
            "a'b:1",
            "$(id):1",
            "a`id`:1",
            "a;id:1",
            "a\nb:1",
            "user:pass@gw:3128",
            "*:3128",
            "gw:31\u{663}",
            "[::1%eth0]:1",
        ] {
            assert!(Place::asked(Scheme::Http, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn on_the_command_line_it_has_a_scheme_or_is_http() {
        for (text, place) in [
            ("https://gw:3130/", "https://gw:3130"),
            ("gw:3128", "http://gw:3128"),
            ("https://gw", "https://gw:443"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), place);
        }
        assert!("socks5://gw:1".parse::<Place>().is_err());
    }
}
