//! Addresses in upstream's answers lead back to where the client asked.
//!
//! A registry that is asked at another address than the client's (`url`, or the mirror endpoint) writes
//! that address into what clients follow: the next page of a list, the next step of an upload, the
//! token service. None of it may be in reach of the client, or may lead around the gateway.

use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Uri};

use super::call::Asked;
use super::passes::TOKEN_PATH;

/// What names upstream's own address names ours.
pub(super) fn lead_back(headers: &mut HeaderMap, asked: &Asked) {
    if !asked.mirror && asked.site.registry.url.is_none() {
        return;
    }
    rewrite(headers, &header::LOCATION, |location| {
        let path = own_path(&location.parse().ok()?, asked)?;
        Some(as_asked(&path, asked))
    });
    rewrite(headers, &header::LINK, |link| {
        let (address, rest) = link.trim_start().strip_prefix('<')?.split_once('>')?;
        let path = own_path(&address.parse().ok()?, asked)?;
        Some(format!(
            "<{}>{rest}",
            without_namespace(&as_asked(&path, asked))
        ))
    });
    // The realm of clients that came by the mirror endpoint is ours already.
    let ours = asked.realm.as_deref().filter(|_| !asked.mirror);
    if let Some(ours) = ours.and_then(|realm| realm.strip_suffix(TOKEN_PATH)) {
        let endpoint = &asked.endpoint;
        let theirs = format!(
            "realm=\"{}://{}{}/",
            endpoint.scheme, endpoint.authority, endpoint.prefix
        );
        rewrite(headers, &header::WWW_AUTHENTICATE, |challenge| {
            challenge
                .contains(&theirs)
                .then(|| challenge.replace(&theirs, &format!("realm=\"{ours}/")))
        });
    }
}

/// The path and query of an address of upstream's own, as the registry has it; `None` for another
/// host's.
pub(super) fn own_path(address: &Uri, asked: &Asked) -> Option<String> {
    let endpoint = &asked.endpoint;
    // Who is told which host was asked for may write that.
    let own = address.authority().is_none_or(|authority| {
        *authority == endpoint.authority
            || endpoint.namespace.as_deref() == Some(authority.as_str())
    });
    let path = address.path_and_query().filter(|_| own)?.as_str();
    Some(
        path.strip_prefix(&*endpoint.prefix)
            .unwrap_or(path)
            .to_owned(),
    )
}

/// A path of the registry as the client writes it.
fn as_asked(path: &str, asked: &Asked) -> String {
    match path.strip_prefix("/v2/") {
        Some(rest) => format!("/v2/{}{rest}", asked.name_prefix),
        None => path.to_owned(),
    }
}

/// Without the `?ns=` that we asked with: it is added again to whatever the client asks next.
fn without_namespace(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("ns="))
        .collect();
    match rest.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", rest.join("&")),
    }
}

/// Each line of a field anew, where `new` has something to say of it.
fn rewrite(headers: &mut HeaderMap, name: &HeaderName, new: impl Fn(&str) -> Option<String>) {
    let lines: Vec<HeaderValue> = headers
        .get_all(name)
        .iter()
        .map(|line| {
            let changed = line.to_str().ok().and_then(&new);
            let changed = changed.and_then(|text| HeaderValue::try_from(text).ok());
            changed.unwrap_or_else(|| line.clone())
        })
        .collect();
    headers.remove(name);
    for line in lines {
        headers.append(name, line);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use http::Method;

    use super::super::call::endpoint;
    use super::*;
    use crate::policy::{Action, Policy, PolicyConfig, RegistryConfig, Target, Via};
    use crate::registry::RegistryRules;

    /// A request to registry.example, which is asked at `url`.
    fn asked(url: &str, mirror: bool) -> Asked {
        let target: Target = "registry.example:443".parse().unwrap();
        let mut entry = RegistryConfig::new("registry.example".parse().unwrap());
        entry.url = (!url.is_empty()).then(|| url.parse().unwrap());
        let policy = Policy::new(PolicyConfig::default(), vec![entry], false);
        let client = IpAddr::from([127, 0, 0, 1]);
        let verdict = policy.decide(client, None, Via::Connect, &target);
        let Action::Intercept(site) = verdict.action else {
            panic!("{verdict:?}");
        };
        Asked {
            endpoint: Arc::new(endpoint(&site, Via::Connect, &target).unwrap()),
            site,
            rules: Arc::new(RegistryRules::default()),
            method: Method::GET,
            path_and_query: "/v2/".into(),
            headers: HeaderMap::new(),
            client,
            mirror,
            refresh: false,
            name_prefix: if mirror {
                "registry.example/".into()
            } else {
                String::new()
            },
            realm: Some(format!("https://registry.example{TOKEN_PATH}").into()),
        }
    }

    fn led(asked: &Asked, name: HeaderName, value: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(&name, value.parse().unwrap());
        lead_back(&mut headers, asked);
        headers[&name].to_str().unwrap().to_owned()
    }

    #[test]
    fn the_next_page_the_next_step_and_the_tokens_are_where_the_client_asked() {
        let asked = asked("https://outer.example/mirror", false);
        let at = "https://outer.example/mirror";
        assert_eq!(
            led(
                &asked,
                header::LINK,
                &format!("<{at}/v2/a/tags/list?n=2&last=b&ns=registry.example>; rel=\"next\"")
            ),
            "</v2/a/tags/list?n=2&last=b>; rel=\"next\""
        );
        assert_eq!(
            led(
                &asked,
                header::LINK,
                "</mirror/v2/a/tags/list?ns=x>; rel=\"next\""
            ),
            "</v2/a/tags/list>; rel=\"next\""
        );
        assert_eq!(
            led(
                &asked,
                header::LOCATION,
                &format!("{at}/v2/a/blobs/uploads/1?_state=x")
            ),
            "/v2/a/blobs/uploads/1?_state=x"
        );
        assert_eq!(
            led(
                &asked,
                header::WWW_AUTHENTICATE,
                &format!("Bearer realm=\"{at}/token\",service=\"s\"")
            ),
            "Bearer realm=\"https://registry.example/token\",service=\"s\""
        );
    }

    #[test]
    fn an_upstream_that_goes_by_the_host_it_is_told_is_led_back_too() {
        for url in ["https://outer.example", "http://outer.example:5000"] {
            let asked = asked(url, false);
            for scheme in ["https", "http"] {
                let location = format!("{scheme}://registry.example/v2/a/blobs/uploads/1");
                let led = led(&asked, header::LOCATION, &location);
                assert_eq!(led, "/v2/a/blobs/uploads/1");
            }
        }
    }

    #[test]
    fn what_is_elsewhere_stays_elsewhere() {
        let asked = asked("https://outer.example", false);
        for (name, value) in [
            (header::LOCATION, "https://cdn.example/blob?signature=1"),
            (header::LINK, "<https://cdn.example/next>; rel=\"next\""),
            (header::LINK, "no address"),
            (
                header::WWW_AUTHENTICATE,
                "Bearer realm=\"https://auth.example/token\"",
            ),
            (header::WWW_AUTHENTICATE, "Basic realm=\"r\""),
        ] {
            assert_eq!(led(&asked, name, value), value);
        }
    }

    #[test]
    fn the_mirror_endpoint_keeps_the_name_that_the_client_uses() {
        let asked = asked("", true);
        assert_eq!(
            led(
                &asked,
                header::LINK,
                "</v2/a/tags/list?last=b>; rel=\"next\""
            ),
            "</v2/registry.example/a/tags/list?last=b>; rel=\"next\""
        );
    }

    #[test]
    fn a_registry_at_its_own_address_is_not_spoken_for() {
        let asked = asked("", false);
        let location = "https://registry.example/v2/a/blobs/uploads/1";
        assert_eq!(led(&asked, header::LOCATION, location), location);
    }
}
