//! Which addresses may be dialled: the public internet, and what the owner listed.
//!
//! The guard judges addresses, never names: the caller resolves once, asks here, and dials
//! exactly the address that passed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

/// Refuses addresses that are not public, unless a listed network holds them.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    allowed: Vec<IpNet>,
}

/// An address that must not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{addr} is {kind}; such an address is dialled only when upstream.allow_private lists it (for example allow_private = [\"{addr}\"])"
)]
pub struct Refused {
    pub addr: IpAddr,
    /// What is wrong with it, to be read after "is": `a private address`.
    pub kind: &'static str,
}

impl AddressGuard {
    /// `allowed`: the networks of `upstream.allow_private`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether `addr` may be dialled.
    ///
    /// An address that carries an IPv4 address (IPv4-mapped, IPv4-compatible, NAT64, 6to4, Teredo) is judged by
    /// that one as well, and allowed when either is listed.
    pub fn check(&self, addr: IpAddr) -> Result<(), Refused> {
        let inner = embedded(addr);
        let listed = |addr: IpAddr| self.allowed.iter().any(|net| net.contains(&addr));
        if listed(addr) || inner.is_some_and(|v4| listed(IpAddr::V4(v4))) {
            return Ok(());
        }
        let kind = match (addr, inner) {
            (IpAddr::V4(v4), _) => v4_kind(v4),
            (IpAddr::V6(v6), Some(v4)) => v6_kind(v6).or_else(|| v4_kind(v4)),
            (IpAddr::V6(v6), None) => v6_kind(v6),
        };
        match kind {
            Some(kind) => Err(Refused { addr, kind }),
            None => Ok(()),
        }
    }
}

// === helpers ===

const UNSPECIFIED: &str = "the unspecified address";
const LOOPBACK: &str = "a loopback address";
const PRIVATE: &str = "a private address";
const SHARED: &str = "an address shared behind a carrier's NAT";
const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "a cloud's metadata address";
const UNIQUE_LOCAL: &str = "a unique-local address";
const MULTICAST: &str = "a multicast address";
const BROADCAST: &str = "the broadcast address";
const DOCUMENTATION: &str = "an address for documentation";
const BENCHMARK: &str = "an address for benchmarks";
const RESERVED: &str = "a reserved address";

fn v4_kind(ip: Ipv4Addr) -> Option<&'static str> {
    let kind = match ip.octets() {
        [0, 0, 0, 0] => UNSPECIFIED,
        // Instance metadata and credentials: most clouds; the second is a container's credentials,
        // then Azure's wire server (a public address), Alibaba's and Oracle's.
        [169, 254, 169, 254] | [169, 254, 170, 2] => METADATA,
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => METADATA,
        [0, ..] => RESERVED,
        [127, ..] => LOOPBACK,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => PRIVATE,
        [100, 64..=127, ..] => SHARED,
        [169, 254, ..] => LINK_LOCAL,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => DOCUMENTATION,
        [192, 0, 0, _] | [192, 88, 99, _] => RESERVED,
        [198, 18..=19, ..] => BENCHMARK,
        [224..=239, ..] => MULTICAST,
        [255, 255, 255, 255] => BROADCAST,
        [240..=255, ..] => RESERVED,
        _ => return None,
    };
    Some(kind)
}

/// Judges the address itself; what it may carry inside is [`embedded`]'s.
fn v6_kind(ip: Ipv6Addr) -> Option<&'static str> {
    // The metadata address of AWS over IPv6.
    if ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        return Some(METADATA);
    }
    let kind = match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => UNSPECIFIED,
        [0, 0, 0, 0, 0, 0, 0, 1] => LOOPBACK,
        // Mapped and well-known NAT64: the inner address decides.
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => return None,
        // IPv4-compatible ones were never dialled by anything honest.
        [0, 0, 0, 0, 0, 0, high, low] => return v4_kind(joined(high, low)).or(Some(RESERVED)),
        // A NAT64 prefix for local use (RFC 8215) leads to wherever the local network says.
        [0x64, 0xff9b, 1, ..] => PRIVATE,
        [0xfc00..=0xfdff, ..] => UNIQUE_LOCAL,
        [0xfe80..=0xfebf, ..] => LINK_LOCAL,
        [0xfec0..=0xfeff, ..] => PRIVATE,
        [0xff00..=0xffff, ..] => MULTICAST,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => DOCUMENTATION,
        [0x2001, 2, 0, ..] => BENCHMARK,
        // The protocol assignments: Teredo, ORCHID and others that no registry lives on.
        [0x2001, 0..=0x1ff, ..] => RESERVED,
        // Only 2000::/3 is given out for the internet.
        [0x2000..=0x3fff, ..] => return None,
        _ => RESERVED,
    };
    Some(kind)
}

/// The IPv4 address inside an IPv6 address, where a translator or a tunnel would send it on.
fn embedded(addr: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = addr else {
        return None;
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(joined(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(joined(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(joined(high, low)),
        [0x2002, high, low, ..] => Some(joined(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(joined(!high, !low)),
        _ => None,
    }
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(addr: &str) -> Option<&'static str> {
        let addr = addr.parse().unwrap();
        AddressGuard::default().check(addr).err().map(|r| r.kind)
    }

    #[test]
    fn public_addresses_pass() {
        for addr in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(kind(addr), None, "{addr}");
        }
    }

    #[test]
    fn every_kind_of_address_that_is_not_public_is_refused_by_its_name() {
        for (addr, expected) in [
            ("0.0.0.0", UNSPECIFIED),
            ("0.1.2.3", RESERVED),
            ("127.0.0.53", LOOPBACK),
            ("10.1.2.3", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.168.0.1", PRIVATE),
            ("100.64.0.1", SHARED),
            ("169.254.1.1", LINK_LOCAL),
            ("169.254.169.254", METADATA),
            ("168.63.129.16", METADATA),
            ("100.100.100.200", METADATA),
            ("192.0.2.1", DOCUMENTATION),
            ("198.18.0.1", BENCHMARK),
            ("224.0.0.1", MULTICAST),
            ("240.0.0.1", RESERVED),
            ("255.255.255.255", BROADCAST),
            ("::", UNSPECIFIED),
            ("::1", LOOPBACK),
            ("fd00::1", UNIQUE_LOCAL),
            ("fd00:ec2::254", METADATA),
            ("fe80::1", LINK_LOCAL),
            ("fec0::1", PRIVATE),
            ("ff02::1", MULTICAST),
            ("2001:db8::1", DOCUMENTATION),
            ("64:ff9b:1::1", PRIVATE),
            ("100::1", RESERVED),
        ] {
            assert_eq!(kind(addr), Some(expected), "{addr}");
        }
    }

    #[test]
    fn an_address_inside_an_address_is_judged_too() {
        assert_eq!(kind("::ffff:127.0.0.1"), Some(LOOPBACK));
        assert_eq!(kind("::ffff:169.254.169.254"), Some(METADATA));
        assert_eq!(kind("::ffff:1.1.1.1"), None);
        assert_eq!(kind("64:ff9b::10.0.0.1"), Some(PRIVATE));
        assert_eq!(kind("64:ff9b::1.1.1.1"), None);
        assert_eq!(kind("2002:a00:1::"), Some(PRIVATE));
        assert_eq!(kind("2002:101:101::1"), None);
        assert_eq!(kind("::127.0.0.1"), Some(LOOPBACK));
        assert_eq!(kind("::1.1.1.1"), Some(RESERVED));
    }

    #[test]
    fn a_listed_network_is_dialled_whatever_it_is() {
        let nets = ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"];
        let guard = AddressGuard::new(nets.iter().map(|n| n.parse().unwrap()).collect());
        for addr in [
            "10.2.3.4",
            "fd12::1",
            "127.0.0.1",
            "::ffff:10.2.3.4",
            "64:ff9b::a00:1",
        ] {
            assert_eq!(guard.check(addr.parse().unwrap()), Ok(()), "{addr}");
        }
        for addr in ["127.0.0.2", "192.168.1.1", "::1"] {
            assert!(guard.check(addr.parse().unwrap()).is_err(), "{addr}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_address_is_and_where_to_list_it() {
        let refused = AddressGuard::default()
            .check("10.1.2.3".parse().unwrap())
            .unwrap_err();
        let text = refused.to_string();
        assert!(text.starts_with("10.1.2.3 is a private address"), "{text}");
        assert!(text.contains("upstream.allow_private"), "{text}");
    }

    proptest! {
        #[test]
        fn a_mapped_address_fares_as_the_address_it_maps(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let guard = AddressGuard::default();
            let plain = guard.check(IpAddr::V4(v4)).map_err(|r| r.kind);
            let mapped = guard.check(IpAddr::V6(v4.to_ipv6_mapped())).map_err(|r| r.kind);
            prop_assert_eq!(plain, mapped);
        }

        #[test]
        fn what_the_standard_library_calls_local_is_refused(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() {
                prop_assert!(AddressGuard::default().check(IpAddr::V4(v4)).is_err());
            }
        }

        #[test]
        fn listing_everything_refuses_nothing(bits: u128) {
            let guard = AddressGuard::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
            prop_assert!(guard.check(IpAddr::V6(Ipv6Addr::from(bits))).is_ok());
        }
    }
}
