//! Which way leads from this machine to the gateway, by what the machine says.

use super::fetch::Place;
use super::settings::{Client, Settings, Way};
use super::walk::Stopped;
use super::{Question, Step};

/// How registries are reached from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Proxy,
    /// The gateway is named as a registry's mirror.
    Mirror,
}

/// The way to the gateway, and the clients that go it; or the step that says why there is none.
pub(super) fn choose(
    question: &Question,
    settings: Settings,
    steps: &mut Vec<Step>,
) -> Result<(Route, Place, Vec<Way>), Stopped> {
    let mut stop = |found: String, mend: String| {
        steps.push(Step::failed("settings", found, mend));
        Stopped
    };
    let setup = "as root: curl -fsSL http://GATEWAY:3128/setup/docker | sh (or containerd, podman)";
    let mut ways = settings.ways;
    if let Some(proxy) = &question.proxy {
        if ways.is_empty() {
            ways.push(Way {
                client: question.client.unwrap_or(Client::Shell),
                proxy: proxy.clone(),
                source: "--proxy".to_owned(),
                no_proxy: String::new(),
                roots: None,
            });
        }
        let place = Place::parse(proxy);
        let place = place.ok_or_else(|| {
            stop(
                "--proxy is no address of a proxy".to_owned(),
                ADDRESS.to_owned(),
            )
        })?;
        steps.push(Step::ok("settings", format!("{place}, as was said")));
        return Ok((Route::Proxy, place, ways));
    }
    let Some(first) = ways.first() else {
        let Some(mirror) = settings
            .mirrors
            .first()
            .filter(|_| question.image.registry == HUB)
        else {
            let found = match (question.client, settings.mirrors.is_empty()) {
                (_, false) => format!("dockerd has registry-mirrors, which count for Docker Hub alone, and no proxy for {}", question.image.registry),
                (Some(client), _) => format!("{client} has no proxy"),
                (None, _) => "no client of this machine has a proxy: neither HTTPS_PROXY here or in /etc/environment, nor a drop-in of docker or containerd, nor podman's containers.conf".to_owned(),
            };
            return Err(stop(found, setup.to_owned()));
        };
        let place = Place::parse(mirror).filter(|place| !place.https);
        let place = place.ok_or_else(|| {
            stop(
                format!("the registry-mirror {mirror} is not the gateway's http:// address"),
                ADDRESS.to_owned(),
            )
        })?;
        steps.push(Step::ok(
            "settings",
            format!("docker: registry-mirrors {place} in /etc/docker/daemon.json, for Docker Hub"),
        ));
        return Ok((Route::Mirror, place, ways));
    };
    let place = Place::parse(&first.proxy).ok_or_else(|| {
        let found = format!(
            "the proxy that {} sets for {} is no address",
            first.source, first.client
        );
        stop(found, ADDRESS.to_owned())
    })?;
    let (host, _) = target(&question.image.registry);
    if let Some((way, word)) = ways
        .iter()
        .find_map(|way| Some((way, way.passes_by(&host)?)))
    {
        return Err(stop(
            format!(
                "NO_PROXY of {} says {word}, so that {host} is asked without the gateway",
                way.client
            ),
            format!("take {word} out of NO_PROXY where {} sets it", way.source),
        ));
    }
    let shown: Vec<String> = ways
        .iter()
        .map(|way| {
            let place = Place::parse(&way.proxy).map(|place| place.to_string());
            format!(
                "{}: {} ({})",
                way.client,
                place.unwrap_or_default(),
                way.source
            )
        })
        .collect();
    let others = ways.iter().find(|way| {
        Place::parse(&way.proxy).is_none_or(|other| other.to_string() != place.to_string())
    });
    steps.push(match others {
        None => Step::ok("settings", shown.join("; ")),
        Some(other) => Step::warning(
            "settings",
            shown.join("; "),
            format!("the clients go different ways, and this looks at the first; --client {} looks at the other", other.client),
        ),
    });
    Ok((Route::Proxy, place, ways))
}

/// Where a registry is asked.
pub(super) fn target(registry: &str) -> (String, u16) {
    if registry == HUB {
        return (HUB_HOST.to_owned(), 443);
    }
    match registry.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host.trim_matches(['[', ']']).to_owned(), port),
            Err(_) => (registry.to_owned(), 443),
        },
        None => (registry.to_owned(), 443),
    }
}

pub(super) const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const ADDRESS: &str = "a proxy is written http://GATEWAY:3128, or http://USER:PASSWORD@GATEWAY:3128 where the gateway asks for users";
