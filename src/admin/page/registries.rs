//! The registries: how they are reached, how they are, and a switch.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use maud::html;

use super::{Admin, Rights, View, action, framed, words};

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
) -> Response {
    let registries = admin.registries();
    let body = html! {
        h1 { "Registries" }
        p.quiet { "Intercepted and cached. A registry that is switched off here answers what is cached and is never dialled, until the next reload or restart; " code { "enabled = false" } " makes it last." }
        div.scroll tabindex="0" role="region" aria-label="Registries" { table {
            thead { tr { th scope="col" { "Registry" } th scope="col" { "Credentials" } th scope="col" { "Push" } th scope="col" { "Health" } th scope="col" { "State" } } }
            tbody { @for one in &registries {
                tr {
                    th scope="row" { (one.name) @if !one.builtin { " " span.tag { "configured" } } br; small { (one.hosts.join(", ")) } }
                    td { (one.auth) }
                    td { @if one.push { "allowed" } @else { "denied" } }
                    td {
                        @match &one.health {
                            None => span.quiet { "not asked yet" },
                            Some(health) => {
                                @if let Some(good) = health.last_success { span.good { "answered " (words::ago(good)) } br; }
                                @if let (Some(bad), Some(why)) = (health.last_failure, &health.last_error) { span.bad { "failed " (words::ago(bad)) } ": " small { (why) } }
                            }
                        }
                    }
                    td {
                        @if one.enabled { span.good { "on" } } @else { span.bad { "off" } }
                        @let (to, label) = if one.enabled { ("false", "Switch off") } else { ("true", "Switch on") };
                        (action(rights, "/actions/switch", &[("registry", &one.name), ("enabled", to), ("back", "/registries")], label, None))
                    }
                }
            } }
        } }
    };
    framed(Some(View::Registries), View::Registries.name(), body)
}
