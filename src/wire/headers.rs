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

/// The values of one header over all its lines, where they are text.
pub fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
}

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
}
