//! The registries: how they are reached, how they are, and a switch.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Admin, Rights, Said, View, action, encoded, overview, table, words};
use crate::admin::api::status::{Health, Registry};

/// What came before.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    said: Option<Said>,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Asked>,
) -> Response {
    let registries = admin.registries();
    let mut frame = View::Registries.frame(rights);
    frame.said = asked.said;
    let body = html! {
        h1 { "Registries" }
        p.quiet {
            "Intercepted and cached. One that is switched off here answers what is cached and is never dialled, until the next reload or restart; "
            code { "enabled = false" } " in its " code { "[[registry]]" } " makes it last."
        }
        (table("Registries", html! {
            th scope="col" { "Registry" } th scope="col" { "State" } th scope="col" { "Health" } th scope="col" { "Pulls left" }
            th scope="col" { "Whose credentials" } th scope="col" { "Push" }
        }, html! { @for one in &registries { (row(rights, one)) } }))
    };
    frame.around(body)
}

fn row(rights: Rights, one: &Registry) -> Markup {
    let (to, label) = match one.enabled {
        true => ("false", "Switch off"),
        false => ("true", "Switch on"),
    };
    html! {
        tr {
            th scope="row" {
                a href={ "/images?registry=" (encoded(&one.name)) } { (one.name) }
                @if !one.builtin { " " span.tag { "configured" } }
                @if one.hosts.len() > 1 || one.hosts.first() != Some(&one.name) { br; small { (one.hosts.join(", ")) } }
            }
            td.tight {
                @if one.enabled { span.good { "on" } } @else { span.bad { "off" } }
                " " (action(rights, "/actions/switch", &[("registry", &one.name), ("enabled", to), ("back", "/registries")], label, None))
            }
            td { @match &one.health { None => span.quiet { "not asked yet" }, Some(health) => (well(health)) } }
            td.tight { @match &one.health { None => span.quiet { "–" }, Some(health) => (overview::left(health)) } }
            td { @match one.auth { "client" => "the caller's", "gateway" => "the gateway's", _ => "the caller's, else the gateway's" } br; small { code { "auth = \"" (one.auth) "\"" } } }
            td { @if one.push { "allowed" } @else { "denied" } }
        }
    }
}

fn well(health: &Health) -> Markup {
    html! {
        (overview::state(health))
        @if health.requests > 0 {
            br; small {
                (words::many(health.requests, "request")) " in 5 min, " (words::count(health.failures)) " failed"
                @if let Some(ms) = health.median_ms { ", median " (ms) " ms" }
            }
        }
    }
}
