//! What a proxy must strip and add when a message passes (RFC 9110 section 7.6).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Removes hop-by-hop fields, those that `Connection` names, and every `Proxy-*` field.
///
/// `Transfer-Encoding` goes too: framing belongs to each hop.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

/// Appends this gateway to `Via`, so that a loop of gateways ends (RFC 9110 section 7.6.3).
pub fn add_via(headers: &mut HeaderMap, me: &HeaderValue) {
    headers.append(header::VIA, me.clone());
}

/// Whether the message already passed this gateway.
pub fn has_passed(headers: &HeaderMap, me: &HeaderValue) -> bool {
    let Ok(me) = me.to_str() else { return false };
    headers
        .get_all(header::VIA)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|hop| hop.trim() == me)
}

/// Tells a gateway that answers for several registries which of them is meant: the host that was asked
/// for, as RFC 7239 section 5.3 has it. Whoever else is asked does not mind the field, as it might a query.
pub fn say_meant_host(headers: &mut HeaderMap, host: &str) {
    let said = format!("{BY_US};host=\"{host}\"");
    match HeaderValue::from_str(&said) {
        Ok(said) => headers.insert(header::FORWARDED, said),
        Err(_) => headers.remove(header::FORWARDED),
    };
}

/// Takes what [`say_meant_host`] of another gateway said. What other proxies say is about themselves.
pub fn take_meant_host(headers: &mut HeaderMap) -> Option<String> {
    let said = lines(headers, &header::FORWARDED)
        .flat_map(|line| line.split(','))
        .find_map(|hop| hop.trim().strip_prefix(BY_US)?.strip_prefix(";host="))
        .map(|host| host.trim_matches('"').to_owned());
    headers.remove(header::FORWARDED);
    said
}

/// The values of one header over all its lines, where they are text.
pub fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

/// An obfuscated identifier (RFC 7239 section 6.3): a gateway of our kind.
const BY_US: &str = "by=_pierhead";

const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_named_by_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("close, X-Secret"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-kept"));
    }

    #[test]
    fn a_message_that_passed_this_gateway_is_recognised_in_a_list() {
        let me = HeaderValue::from_static("1.1 pierhead-ab12");
        let mut headers = HeaderMap::new();
        headers.insert(
            "via",
            HeaderValue::from_static("1.1 squid, 1.1 pierhead-ab12"),
        );
        assert!(has_passed(&headers, &me));
        assert!(!has_passed(
            &headers,
            &HeaderValue::from_static("1.1 pierhead-cd34")
        ));
    }

    #[test]
    fn a_gateway_hears_which_registry_another_one_means_and_nothing_of_other_proxies() {
        let mut headers = HeaderMap::new();
        say_meant_host(&mut headers, "registry.corp:5000");
        let said = headers[header::FORWARDED].clone();
        assert_eq!(said, "by=_pierhead;host=\"registry.corp:5000\"");
        headers.insert(
            header::FORWARDED,
            HeaderValue::from_static("for=10.0.0.1;host=gateway.corp"),
        );
        headers.append(header::FORWARDED, said);
        assert_eq!(
            take_meant_host(&mut headers).as_deref(),
            Some("registry.corp:5000")
        );
        assert!(headers.is_empty());
        headers.insert(
            header::FORWARDED,
            HeaderValue::from_static("host=gateway.corp"),
        );
        assert_eq!(take_meant_host(&mut headers), None);
    }
}
