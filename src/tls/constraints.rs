//! Name constraints (RFC 5280 4.2.1.10): what the CA may sign for, as configured, as written into
//! `ca.crt` and as read back from it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{CidrSubnet, GeneralSubtree};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The hosts the CA may sign for. A DNS name stands for itself and all names below it; the empty
/// name stands for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameConstraints {
    pub dns: Vec<String>,
    /// Exactly these. None: the CA signs for no IP address.
    pub ips: Vec<IpAddr>,
}

/// The two lists of the extension. A kind of name that neither list mentions is not constrained,
/// so both kinds are always mentioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subtrees {
    permitted: BTreeSet<Subtree>,
    excluded: BTreeSet<Subtree>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subtree {
    Dns(String),
    Net {
        address: IpAddr,
        mask: IpAddr,
    },
    /// A kind that pierhead does not write; a company's CA may carry it.
    Other(String),
}

// === impl Subtrees ===

impl Subtrees {
    /// The extension for `names`; the name that cannot be one, otherwise.
    pub(super) fn new(names: &NameConstraints) -> Result<Self, String> {
        let mut permitted = BTreeSet::new();
        let mut excluded = BTreeSet::new();
        for name in &names.dns {
            // IA5String; also the leading dot that some write for a suffix has no place here.
            let subtree = name.trim_start_matches('.').to_ascii_lowercase();
            if !subtree.is_ascii() || subtree.contains(|c: char| c.is_whitespace() || c == '*') {
                return Err(name.clone());
            }
            permitted.insert(Subtree::Dns(subtree));
        }
        permitted.extend(names.ips.iter().map(|ip| Subtree::host(*ip)));
        if names.dns.is_empty() {
            excluded.insert(Subtree::Dns(String::new()));
        }
        if names.ips.is_empty() {
            excluded.insert(Subtree::all(Ipv4Addr::UNSPECIFIED.into()));
            excluded.insert(Subtree::all(Ipv6Addr::UNSPECIFIED.into()));
        }
        Ok(Self {
            permitted,
            excluded,
        })
    }

    /// What a certificate carries, if it carries any.
    pub(super) fn read(certificate: &X509Certificate<'_>) -> Result<Option<Self>, String> {
        let Some(extension) = certificate
            .name_constraints()
            .map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let list = |list: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
            list.iter()
                .flatten()
                .map(|subtree| Subtree::read(&subtree.base))
                .collect()
        };
        Ok(Some(Self {
            permitted: list(&extension.value.permitted_subtrees),
            excluded: list(&extension.value.excluded_subtrees),
        }))
    }

    pub(super) fn to_rcgen(&self) -> rcgen::NameConstraints {
        let list = |list: &BTreeSet<Subtree>| list.iter().filter_map(Subtree::to_rcgen).collect();
        rcgen::NameConstraints {
            permitted_subtrees: list(&self.permitted),
            excluded_subtrees: list(&self.excluded),
        }
    }

    /// The names permitted here that `old` did not cover: certificates for these fail where only
    /// `old` is known.
    pub(super) fn beyond(&self, old: &Self) -> Vec<String> {
        self.permitted
            .iter()
            .filter(|new| !old.permitted.iter().any(|old| old.covers(new)))
            .map(Subtree::to_string)
            .collect()
    }

    /// For a person: one line for each sense and kind.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let join = |list: &BTreeSet<Subtree>| {
            let names: Vec<_> = list.iter().map(Subtree::to_string).collect();
            names.join(", ")
        };
        [("permitted", &self.permitted), ("excluded", &self.excluded)]
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(sense, list)| (sense, join(list)))
            .collect()
    }
}

// === impl Subtree ===

impl Subtree {
    fn host(address: IpAddr) -> Self {
        let mask = match address {
            IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX).into(),
        };
        Self::Net { address, mask }
    }

    fn all(unspecified: IpAddr) -> Self {
        Self::Net {
            address: unspecified,
            mask: unspecified,
        }
    }

    fn read(name: &GeneralName<'_>) -> Self {
        match name {
            GeneralName::DNSName(name) => Self::Dns(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => {
                if let Ok(&[a, b, c, d, e, f, g, h]) = <&[u8; 8]>::try_from(*bytes) {
                    Self::Net {
                        address: [a, b, c, d].into(),
                        mask: [e, f, g, h].into(),
                    }
                } else if let Some((address, mask)) = bytes.split_first_chunk::<16>()
                    && let Ok(mask) = <[u8; 16]>::try_from(mask)
                {
                    Self::Net {
                        address: (*address).into(),
                        mask: mask.into(),
                    }
                } else {
                    Self::Other(name.to_string())
                }
            }
            other => Self::Other(other.to_string()),
        }
    }

    fn to_rcgen(&self) -> Option<GeneralSubtree> {
        Some(match self {
            Self::Dns(name) => GeneralSubtree::DnsName(name.clone()),
            Self::Net { address, mask } => GeneralSubtree::IpAddress(match (address, mask) {
                (IpAddr::V4(address), IpAddr::V4(mask)) => {
                    CidrSubnet::V4(address.octets(), mask.octets())
                }
                (IpAddr::V6(address), IpAddr::V6(mask)) => {
                    CidrSubnet::V6(address.octets(), mask.octets())
                }
                _ => return None,
            }),
            Self::Other(_) => return None,
        })
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dns(suffix), Self::Dns(name)) => {
                suffix.is_empty()
                    || name
                        .strip_suffix(suffix.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) if name.is_empty() => f.write_str("any DNS name"),
            Self::Dns(name) | Self::Other(name) => f.write_str(name),
            Self::Net { address, mask } => {
                let (bits, width) = match mask {
                    IpAddr::V4(mask) => (mask.to_bits().count_ones(), 32),
                    IpAddr::V6(mask) => (mask.to_bits().count_ones(), 128),
                };
                match (bits, address) {
                    (0, IpAddr::V4(_)) => f.write_str("any IPv4 address"),
                    (0, IpAddr::V6(_)) => f.write_str("any IPv6 address"),
                    _ if bits == width => write!(f, "{address}"),
                    _ => write!(f, "{address}/{bits}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dns: &[&str], ips: &[&str]) -> NameConstraints {
        NameConstraints {
            dns: dns.iter().map(ToString::to_string).collect(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn subtrees(dns: &[&str], ips: &[&str]) -> Subtrees {
        Subtrees::new(&names(dns, ips)).unwrap()
    }

    #[test]
    fn without_an_ip_address_configured_all_of_them_are_excluded() {
        assert_eq!(
            subtrees(&["ghcr.io"], &[]).lines(),
            [
                ("permitted", "ghcr.io".to_owned()),
                ("excluded", "any IPv4 address, any IPv6 address".to_owned())
            ]
        );
        assert_eq!(
            subtrees(&[], &["10.0.0.1", "2001:db8::1"]).lines(),
            [
                ("permitted", "10.0.0.1, 2001:db8::1".to_owned()),
                ("excluded", "any DNS name".to_owned())
            ]
        );
    }

    #[test]
    fn only_names_outside_the_old_subtrees_count_as_added() {
        let old = subtrees(&["amazonaws.com", "ghcr.io"], &["10.0.0.1"]);
        let new = subtrees(
            &["ecr.amazonaws.com", "notghcr.io", "quay.io"],
            &["10.0.0.1", "10.0.0.2"],
        );
        assert_eq!(new.beyond(&old), ["notghcr.io", "quay.io", "10.0.0.2"]);
        assert!(
            new.beyond(&subtrees(&[""], &["10.0.0.1", "10.0.0.2"]))
                .is_empty()
        );
    }

    #[test]
    fn a_pattern_is_not_a_subtree() {
        for name in ["*.example.com", "a b", "bücher.example"] {
            assert_eq!(Subtrees::new(&names(&[name], &[])), Err(name.to_owned()));
        }
    }
}
