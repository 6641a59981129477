//! What to do on a client's machine.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::{Admin, Rights, View};
use crate::policy::Host;

/// A client, how it is called, and what its script does.
struct Client {
    id: &'static str,
    name: &'static str,
    about: &'static str,
    /// What takes the script in.
    into: &'static str,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    headers: HeaderMap,
) -> Response {
    let ca = admin.steering.ca();
    let doors: Vec<String> = admin.steering.doors();
    let doors: Vec<String> = doors.iter().map(|door| reached(door, &headers)).collect();
    let door = doors.first().map_or("http://GATEWAY:3128", String::as_str);
    let body = html! {
        h1 { "Clients" }
        p { "A client needs two things: this proxy, and trust in this gateway's certificate." }
        dl.facts {
            dt { "Proxy" } dd { @for (at, door) in doors.iter().enumerate() { @if at > 0 { ", " } code { (door) } } }
            dt { "CA certificate" } dd { a.button href="/ca.crt" download="pierhead-ca.crt" { "Download ca.crt" } }
            dt { "SHA-256" } dd { code { (ca.fingerprint) } }
        }
        @if door.contains("GATEWAY") { p.quiet { code { "GATEWAY" } " stands for this machine, as its clients call it." } }
        p {
            "Each script sets its client up, shows the same fingerprint, and leaves alone what is right already. "
            code { "… | sudo sh -s -- --undo" } " takes everything back, " code { "--dry-run" } " only says what it would do."
        }
        nav.choices aria-label="Clients" { @for client in &CLIENTS { a href={ "#" (client.id) } { (client.name) } } a href="#doctor" { "Does it work?" } }
        @for client in &CLIENTS {
            section {
                h2 id=(client.id) { (client.name) }
                p { (client.about) }
                (snippet(&format!("curl -fsSL {door}/setup/{} | {}", client.id, client.into)))
            }
        }
        section {
            h2 id="hand" { "Anything else" }
            p { "Whatever reads the usual variables and a certificate file:" }
            (snippet(&format!("curl -fsSL {door}/ca.crt -o pierhead-ca.crt\nopenssl x509 -in pierhead-ca.crt -noout -fingerprint -sha256\nexport HTTPS_PROXY={door} SSL_CERT_FILE=$PWD/pierhead-ca.crt")))
        }
        section {
            h2 id="doctor" { "Does it work?" }
            p { "On the client's machine, step by step, with the mend for each step that fails:" }
            (snippet(&format!("pierhead doctor --proxy {door}")))
        }
    };
    View::Clients.frame(rights).around(body)
}

/// The CA's certificate, PEM.
pub async fn certificate(State(admin): State<Arc<Admin>>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        admin.steering.ca().pem,
    )
        .into_response()
}

fn snippet(text: &str) -> Markup {
    html! { pre data-copy tabindex="0" { (text) } }
}

/// Who reads this by the machine's name or address reaches the proxy by it, too.
fn reached(door: &str, headers: &HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let bare = host.map(|host| match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    });
    let local = |host: &Host| {
        host.as_str() == "localhost" || host.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    };
    // It is a client's word: only what is a host's name becomes part of a command.
    match bare {
        Some(bare) if bare.parse::<Host>().is_ok_and(|host| !local(&host)) => {
            door.replace("GATEWAY", bare)
        }
        _ => door.to_owned(),
    }
}

const CLIENTS: [Client; 5] = [
    Client {
        id: "docker",
        name: "Docker",
        about: "A systemd drop-in with the proxy, the certificate into certs.d and the system's store, and a restart of dockerd.",
        into: "sudo sh",
    },
    Client {
        id: "containerd",
        name: "containerd",
        about: "A systemd drop-in with the proxy, the certificate into the system's store, and a restart of containerd.",
        into: "sudo sh",
    },
    Client {
        id: "podman",
        name: "Podman, Buildah, Skopeo",
        about: "The proxy for everybody on the machine, and the certificate into the system's store.",
        into: "sudo sh",
    },
    Client {
        id: "buildkit",
        name: "BuildKit",
        about: "The proxy and the certificate for buildkitd.",
        into: "sudo sh",
    },
    Client {
        id: "kubernetes",
        name: "Kubernetes",
        about: "A DaemonSet that sets containerd up on every node.",
        into: "kubectl apply -f -",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_the_address_bar_is_the_proxys_too_unless_it_is_this_machines_own() {
        for (host, expected) in [
            (
                "gateway.corp.example:3129",
                "http://gateway.corp.example:3128",
            ),
            ("10.0.0.5:3129", "http://10.0.0.5:3128"),
            ("[fd00::5]:3129", "http://[fd00::5]:3128"),
            ("127.0.0.1:3129", "http://GATEWAY:3128"),
            ("localhost", "http://GATEWAY:3128"),
            ("a'; rm -rf", "http://GATEWAY:3128"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(reached("http://GATEWAY:3128", &headers), expected, "{host}");
        }
    }
}
