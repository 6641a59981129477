//! What to do on a client's machine.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::{Admin, View, framed};

pub async fn view(State(admin): State<Arc<Admin>>) -> Response {
    let ca = admin.steering.ca();
    let door = admin.steering.doors().into_iter().next();
    let door = door.unwrap_or_else(|| "http://GATEWAY:3128".to_owned());
    let setup = |client: &str, what: Markup| {
        html! {
            h2 id=(client) { (what) }
            pre tabindex="0" { "curl -fsSL " (door) "/setup/" (client) " | sudo sh" }
        }
    };
    let body = html! {
        h1 { "Clients" }
        p { "A client needs two things: the proxy " code { (door) } " and this gateway's certificate." }
        dl.facts {
            dt { "CA certificate" } dd { a href="/ca.crt" download="pierhead-ca.crt" { "ca.crt" } }
            dt { "SHA-256" } dd { code { (ca.fingerprint) } }
        }
        p { "The scripts below show the same fingerprint, change nothing that is right already, and take everything back with " code { "sh -s -- --undo" } "." }
        (setup("docker", html! { "Docker" }))
        (setup("containerd", html! { "containerd" }))
        (setup("podman", html! { "Podman, Buildah, Skopeo" }))
        (setup("buildkit", html! { "BuildKit" }))
        h2 id="kubernetes" { "Kubernetes" }
        pre tabindex="0" { "curl -fsSL " (door) "/setup/kubernetes | kubectl apply -f -" }
        h2 id="doctor" { "Does it work?" }
        pre tabindex="0" { "pierhead doctor --proxy " (door) }
    };
    framed(Some(View::Clients), View::Clients.name(), body)
}

/// The CA's certificate, PEM.
pub async fn certificate(State(admin): State<Arc<Admin>>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        admin.steering.ca().pem,
    )
        .into_response()
}
