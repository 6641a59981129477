//! Where clients find the gateway.

use std::fmt;

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
        Self::at(scheme, host, scheme.port())
    }

    /// The place that a person wrote: http where no scheme is. Who leaves the port out means the
    /// gateway's own, which is `port` of the scheme, and not the web's.
    pub fn written(text: &str, port: impl Fn(Scheme) -> u16) -> Result<Self, NoPlace> {
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
        Self::at(scheme, rest.strip_suffix('/').unwrap_or(rest), port(scheme))
    }

    fn at(scheme: Scheme, host: &str, port: u16) -> Result<Self, NoPlace> {
        let wrong = |e: TargetError| NoPlace(host.escape_debug().to_string(), e.to_string());
        let target = match (host.parse::<Target>(), host.parse::<Host>()) {
            (Err(_), Ok(name)) => Target::new(name, port),
            (target, _) => target.map_err(wrong)?,
        };
        Ok(Self { scheme, target })
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
    fn on_the_command_line_it_has_a_scheme_or_is_http_and_the_gateways_own_port() {
        let own = |scheme| match scheme {
            Scheme::Http => 3128,
            Scheme::Https => 3130,
        };
        for (text, place) in [
            ("https://gw:3130/", "https://gw:3130"),
            ("gw:3128", "http://gw:3128"),
            ("gw", "http://gw:3128"),
            ("http://gw/", "http://gw:3128"),
            ("http://gw:80", "http://gw:80"),
            ("https://gw", "https://gw:3130"),
        ] {
            assert_eq!(Place::written(text, own).unwrap().to_string(), place);
        }
        assert!(Place::written("socks5://gw:1", own).is_err());
    }
}
