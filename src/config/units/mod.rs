//! The texts of the configuration that mean something: sizes, durations, addresses, secrets.
//!
//! Each is a type that is parsed where it stands in the file, so that an error knows its line.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use thiserror::Error;

/// A number of bytes: `50GiB` (powers of 1024), `10MB` (powers of 1000), or a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A time: `10m`, `7d`, `1h30m`, or a bare number of seconds. At most a hundred years, so that a
/// clock can be moved by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A [`Period`] that bounds a wait, and so cannot be nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Duration);

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(pub SocketAddr);

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net(pub IpNet);

/// Where a host is dialled instead: `10.1.2.3` or `10.1.2.3:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(pub IpAddr, pub Option<u16>);

/// An `http://` or `https://` address without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(pub Uri);

/// A text that no log, error or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// A value that is written as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// A value that is written as text, where the empty text means none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maybe<T>(pub Option<T>);

/// What is wrong with a text, in a sentence that begins with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UnitError(String);

// === impl Size ===

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        let scale: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            "k" | "m" | "g" | "t" => {
                let unit = unit.to_ascii_uppercase();
                return Err(UnitError(format!(
                    "{text:?} could mean two sizes; say {number}{unit}iB (powers of 1024) or {number}{unit}B (powers of 1000)"
                )));
            }
            _ => return Err(not_a_size(text)),
        };
        let bytes = match number.split_once('.') {
            None => number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(scale)),
            // A fraction of a byte is no size.
            Some(_) if scale == 1 => None,
            Some((whole, part)) => fraction(whole, part, scale),
        };
        bytes.map(Self).ok_or_else(|| not_a_size(text))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber {
            expecting: "a size such as \"50GiB\", or a number of bytes",
            number: |bytes| Ok(Self(bytes)),
        })
    }
}

// === impl Period ===

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        if let Ok(seconds) = trimmed.parse::<u64>() {
            return Self::seconds(seconds);
        }
        if trimmed.contains('M') {
            return Err(UnitError(format!(
                "{text:?} is not clear: `m` is minutes, and months are written as days"
            )));
        }
        let period = humantime::parse_duration(trimmed).map_err(|_| {
            UnitError(format!(
                "{text:?} is not a duration; say for example \"30s\", \"10m\", \"1h30m\" or \"7d\", or a number of seconds"
            ))
        })?;
        Self::bounded(period)
    }
}

impl Period {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    fn seconds(seconds: u64) -> Result<Self, UnitError> {
        Self::bounded(Duration::from_secs(seconds))
    }

    fn bounded(period: Duration) -> Result<Self, UnitError> {
        match period <= Self::LONGEST {
            true => Ok(Self(period)),
            false => Err(UnitError(
                "a duration may be a hundred years at most".to_owned(),
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber {
            expecting: "a duration such as \"10m\", or a number of seconds",
            number: Self::seconds,
        })
    }
}

// === impl Limit ===

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Period::deserialize(from)?.0 {
            Duration::ZERO => Err(de::Error::custom(
                "no time at all would end every wait before it began; say \"1s\" or more",
            )),
            period => Ok(Self(period)),
        }
    }
}

// === impl Bind ===

impl FromStr for Bind {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if let Ok(addr) = text.parse() {
            return Ok(Self(addr));
        }
        let hint = match text.rsplit_once(':') {
            Some(("" | "*", port)) => {
                format!("for all addresses say \"0.0.0.0:{port}\" or \"[::]:{port}\"")
            }
            Some(("localhost", port)) => format!("say \"127.0.0.1:{port}\""),
            _ => "say for example \"127.0.0.1:3128\" or \"[::1]:3128\"".to_owned(),
        };
        Err(UnitError(format!(
            "{text:?} is not an address and a port; {hint}"
        )))
    }
}

// === impl Net ===

impl FromStr for Net {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        match text.parse::<IpNet>().or_else(|_| one()) {
            Ok(net) => Ok(Self(net.trunc())),
            Err(_) => Err(UnitError(format!(
                "{text:?} is not a network; say for example \"10.0.0.0/8\", \"fd00::/8\" or one address"
            ))),
        }
    }
}

// === impl Fixed ===

impl FromStr for Fixed {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self(ip, None));
        }
        match text.parse::<SocketAddr>() {
            Ok(addr) if addr.port() != 0 => Ok(Self(addr.ip(), Some(addr.port()))),
            _ => Err(UnitError(format!(
                "{text:?} is not an address; say for example \"10.1.2.3\" or \"10.1.2.3:443\""
            ))),
        }
    }
}

// === impl Url ===

impl FromStr for Url {
    type Err = UnitError;

    /// The errors do not repeat the text, which may hold a password.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = |why: &str| Err(UnitError(why.to_owned()));
        let Ok(uri) = text.parse::<Uri>() else {
            return fail("this is not an address such as \"https://registry.example\"");
        };
        if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
            return fail("the address must begin with https:// or http://");
        }
        if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return fail("the address must not hold credentials");
        }
        if uri.query().is_some() {
            return fail("the address must not have a query");
        }
        Ok(Self(uri))
    }
}

// === impl Secret ===

impl Secret {
    /// The text itself. Whoever calls this keeps it out of everything that is shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self)
    }
}

// === impl Text, Maybe ===

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Parsed(PhantomData)).map(Self)
    }
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.is_empty() {
            true => Ok(Self(None)),
            false => text
                .parse()
                .map(|t| Self(Some(t)))
                .map_err(de::Error::custom),
        }
    }
}

// === helpers ===

fn not_a_size(text: &str) -> UnitError {
    UnitError(format!(
        "{text:?} is not a size; say for example \"50GiB\" or \"10MB\", or a number of bytes"
    ))
}

/// `whole.part` times `scale`, in integers: a float would lose bytes of large sizes.
fn fraction(whole: &str, part: &str, scale: u64) -> Option<u64> {
    if part.is_empty() || part.len() > 6 || part.contains('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let unit = 10u128.pow(u32::try_from(part.len()).ok()?);
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(scale) / unit;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Takes a text that `T` parses from. That happens in the visitor, where an error still gets the
/// place of one element of a list.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Takes a text that `T` parses from, or a whole number.
struct TextOrNumber<T> {
    expecting: &'static str,
    number: fn(u64) -> Result<T, UnitError>,
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => (self.number)(number).map_err(E::custom),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests;
