//! What people write or paste to ask about a host: its name, an address, an image, a URL.

use std::net::Ipv6Addr;

use super::Misused;
use crate::oci::name::ImageName;
use crate::policy::{Host, Policy, Target};

/// The target that `asked` means, and what was made of it where that is not what it says.
pub(super) fn target(policy: &Policy, asked: &str) -> Result<(Target, String), Misused> {
    let (mut target, mut text) = read(policy, asked)?;
    if let Some(registry) = policy.registry_for(target.host.as_str(), None)
        && !registry.serves(&target.host)
        && let Some(first) = registry.hosts.iter().find_map(|pattern| pattern.exact())
    {
        text.push_str(&format!("{} is asked at {first}\n", target.host));
        target = Target::new(first, target.port);
    }
    Ok((target, text))
}

fn read(policy: &Policy, asked: &str) -> Result<(Target, String), Misused> {
    if let Some((scheme, rest)) = asked.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "http" => url(asked, rest, 80),
            "https" => url(asked, rest, 443),
            // skopeo's way of writing an image.
            "docker" => image(policy, asked, rest),
            _ => Err(Misused(format!(
                "{asked}: {scheme}:// is nothing that is asked here; say a host, an image, or an address with http:// or https://"
            ))),
        };
    }
    let asked = asked.trim_end_matches('/');
    if let Ok(ip) = asked.parse::<Ipv6Addr>() {
        return Ok(taken(asked, host(&format!("[{ip}]"), 443)?));
    }
    if asked.contains('/') || asked.contains('@') {
        return image(policy, asked, asked);
    }
    let (name, behind) = asked.split_once(':').unwrap_or((asked, ""));
    let is_port = !behind.is_empty() && behind.bytes().all(|byte| byte.is_ascii_digit());
    // What has a dot is no name of an image alone, and a host that somebody speaks of is meant as one.
    let is_host = asked.contains(['.', '[']) || policy.speaks_of(name) || name == "localhost";
    let target = match host(asked, 443) {
        Ok(target) => target,
        // `nginx:alpine`
        Err(wrong) if is_host || is_port => return Err(wrong),
        Err(wrong) => return image(policy, asked, asked).map_err(|_| wrong),
    };
    // `postgres:16` may be an image, `gateway:8443` is none.
    let may_be_image = !is_host && target.port < 1024;
    let text = match image(policy, asked, asked) {
        Ok((at, _)) if may_be_image => {
            format!("{asked} is taken for a host; the image {asked} is asked for at {at}\n")
        }
        _ => String::new(),
    };
    Ok((target, text))
}

// === helpers ===

/// `rest` is what follows the scheme.
fn url(asked: &str, rest: &str, port: u16) -> Result<(Target, String), Misused> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // A login is nobody's business here, and must not be shown.
    let (login, place) = match authority.rsplit_once('@') {
        Some((_, place)) => (true, place),
        None => (false, authority),
    };
    if place.is_empty() {
        return Err(Misused(format!("{}: it names no host", shown(asked))));
    }
    let target = host(place, port)?;
    match login || rest.trim_end_matches('/') != authority {
        true => Ok(taken(&shown(asked), target)),
        false => Ok((target, String::new())),
    }
}

/// A URL without the login that may be in it.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// `name` is `asked` without what is no part of an image's name.
fn image(policy: &Policy, asked: &str, name: &str) -> Result<(Target, String), Misused> {
    let image: ImageName = name.parse().map_err(|e| Misused(format!("{asked}: {e}")))?;
    let target = match policy.target_of(&image.registry) {
        Some(target) => target,
        None => host(&image.registry, 443)?,
    };
    let text = format!("{asked} is taken for the image {image}, which is asked for at {target}\n");
    Ok((target, text))
}

/// A host, with a port or without one.
fn host(text: &str, port: u16) -> Result<Target, Misused> {
    let found: Result<Target, _> = text.parse();
    let found = found.or_else(|e| {
        let alone: Result<Host, _> = text.parse();
        alone.map(|host| Target::new(host, port)).map_err(|_| e)
    });
    found.map_err(|e| Misused(format!("{text}: {e}")))
}

fn taken(asked: &str, target: Target) -> (Target, String) {
    let text = format!("{asked} is taken for {target}\n");
    (target, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicyConfig, RegistryConfig};

    fn policy() -> Policy {
        let own =
            ["mirror", "*.corp.example"].map(|host| RegistryConfig::new(host.parse().unwrap()));
        Policy::new(PolicyConfig::default(), own.into(), true)
    }

    fn asked(text: &str) -> (String, String) {
        let (target, said) = target(&policy(), text).unwrap();
        (target.to_string(), said)
    }

    #[test]
    fn a_host_is_a_host_and_nothing_is_said_of_it() {
        for (text, expected) in [
            ("ghcr.io", "ghcr.io:443"),
            ("ghcr.io/", "ghcr.io:443"),
            ("http://ghcr.io/", "ghcr.io:80"),
            ("https://ghcr.io:8443", "ghcr.io:8443"),
            ("registry.corp.example:5000", "registry.corp.example:5000"),
            ("mirror", "mirror:443"),
            ("mirror:5", "mirror:5"),
            ("localhost", "localhost:443"),
            ("elsewhere:8443", "elsewhere:8443"),
            ("https://elsewhere", "elsewhere:443"),
            ("[::1]:5000", "[::1]:5000"),
            ("10.0.0.1", "10.0.0.1:443"),
        ] {
            assert_eq!(asked(text), (expected.to_owned(), String::new()), "{text}");
        }
    }

    #[test]
    fn an_image_is_asked_for_at_its_registry_and_so_it_is_said() {
        for (text, target, image) in [
            ("ghcr.io/org/app:tag", "ghcr.io:443", "ghcr.io/org/app:tag"),
            ("ghcr.io/v2/", "ghcr.io:443", "ghcr.io/v2:latest"),
            (
                "nginx:alpine",
                "registry-1.docker.io:443",
                "docker.io/library/nginx:alpine",
            ),
            (
                "library/nginx:1.25",
                "registry-1.docker.io:443",
                "docker.io/library/nginx:1.25",
            ),
            ("docker://quay.io/a/b", "quay.io:443", "quay.io/a/b:latest"),
            (
                "r.example:5000/a",
                "r.example:5000",
                "r.example:5000/a:latest",
            ),
        ] {
            let (found, said) = asked(text);
            assert_eq!(found, target, "{text}");
            assert!(
                said.contains(&format!("is taken for the image {image}, ")),
                "{said}"
            );
        }
        for (text, target) in [("nginx", "nginx:443"), ("postgres:16", "postgres:16")] {
            let (found, said) = asked(text);
            assert_eq!(found, target);
            let image = format!("the image {text} is asked for at registry-1.docker.io:443");
            assert!(said.contains(&image), "{said}");
        }
    }

    #[test]
    fn a_url_is_taken_for_its_host_and_no_login_is_shown() {
        let (found, said) = asked("https://ghcr.io/v2/org/app/manifests/1?x=y");
        assert_eq!(found, "ghcr.io:443");
        assert!(said.contains("is taken for ghcr.io:443"), "{said}");
        let (found, said) = asked("http://me:hunter2@quay.io:5000/v2/");
        assert_eq!(found, "quay.io:5000");
        assert_eq!(said, "http://quay.io:5000/v2/ is taken for quay.io:5000\n");
        let (found, said) = asked("::1");
        assert_eq!(
            (found.as_str(), said.as_str()),
            ("[::1]:443", "::1 is taken for [::1]:443\n")
        );
        let (found, said) = asked("docker.io");
        assert_eq!(found, "registry-1.docker.io:443");
        assert_eq!(said, "docker.io is asked at registry-1.docker.io\n");
    }

    #[test]
    fn what_is_none_of_these_is_a_usage_error_that_shows_no_login() {
        for text in [
            "http://",
            "no host",
            "a..b",
            "ftp://x",
            "h.example:99999",
            "https://u:hunter2@/",
        ] {
            let wrong = target(&policy(), text).unwrap_err().to_string();
            assert!(!wrong.contains("hunter2"), "{wrong}");
        }
    }
}
