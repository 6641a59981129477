//! The web page: server-rendered, readable without JavaScript, nothing loaded from elsewhere.

mod actions;
mod clients;
mod images;
mod live;
mod overview;
mod plot;
mod registries;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::{DOCTYPE, Markup, html};

use super::Admin;
use super::api::Problem;
use super::door::Rights;

/// The views, in the order of the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Overview,
    Images,
    Live,
    Registries,
    Clients,
}

/// A page that could not be made: said in the page's own frame.
struct Failed(Problem);

// === impl View ===

impl View {
    const ALL: [Self; 5] = [
        Self::Overview,
        Self::Images,
        Self::Live,
        Self::Registries,
        Self::Clients,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Images => "Images",
            Self::Live => "Live",
            Self::Registries => "Registries",
            Self::Clients => "Clients",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Images => "/images",
            Self::Live => "/live",
            Self::Registries => "/registries",
            Self::Clients => "/clients",
        }
    }
}

// === impl Failed ===

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let body = html! {
            h1 { (self.0.status().canonical_reason().unwrap_or("Error")) }
            p.bad role="alert" { (self.0.detail()) }
            p { a href="/" { "Overview" } }
        };
        (self.0.status(), framed(None, "Error", body)).into_response()
    }
}

/// The views and their actions.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/", get(overview::view))
        .route("/images", get(images::view))
        .route("/image", get(images::one))
        .route("/live", get(live::view))
        .route("/registries", get(registries::view))
        .route("/clients", get(clients::view))
        .route("/ca.crt", get(clients::certificate))
        .route("/actions/pin", post(actions::pin))
        .route("/actions/remove", post(actions::remove))
        .route("/actions/pull", post(actions::pull))
        .route("/actions/switch", post(actions::switch))
        .route("/actions/reload", post(actions::reload))
}

/// What the page is made of, for everybody: there is nothing to be learned from it.
pub(super) fn assets() -> Router<Arc<Admin>> {
    Router::new()
        .route(
            "/assets/style.css",
            get(|| {
                asset(
                    "text/css; charset=utf-8",
                    include_bytes!("../assets/style.css"),
                )
            }),
        )
        .route(
            "/assets/htmx.js",
            get(|| {
                asset(
                    "text/javascript; charset=utf-8",
                    include_bytes!("../assets/htmx.min.js"),
                )
            }),
        )
        .route(
            "/assets/icon.svg",
            get(|| asset("image/svg+xml", include_bytes!("../assets/icon.svg"))),
        )
}

async fn asset(media_type: &'static str, bytes: &'static [u8]) -> Response {
    (
        [
            (header::CONTENT_TYPE, media_type),
            // A new build may bring another one under the same name.
            (header::CACHE_CONTROL, "max-age=300"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        bytes,
    )
        .into_response()
}

/// A whole page around `body`.
fn framed(view: Option<View>, title: &str, body: Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Neither eval nor styles of its own, or the policy below would stop it.
                meta name="htmx-config" content=r#"{"allowEval":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
                title { (title) " · pierhead" }
                link rel="icon" type="image/svg+xml" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/htmx.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    a.brand href="/" { img src="/assets/icon.svg" alt="" width="22" height="22"; "pierhead" }
                    nav aria-label="Views" {
                        @for one in View::ALL {
                            a href=(one.path()) aria-current=[(Some(one) == view).then_some("page")] { (one.name()) }
                        }
                    }
                }
                main id="main" tabindex="-1" { (body) }
                footer {
                    "pierhead " (env!("CARGO_PKG_VERSION")) " · "
                    a href="/api/v1/openapi.json" { "API" } " · "
                    a href="/metrics" { "metrics" }
                }
            }
        }
    };
    safe(Html(page.into_string()).into_response())
}

/// Only the part that a script asked for, or the whole page for everybody else.
fn part_or_page(
    headers: &HeaderMap,
    view: View,
    part: Markup,
    whole: impl FnOnce(Markup) -> Markup,
) -> Response {
    if headers.contains_key("hx-request") {
        return safe(Html(part.into_string()).into_response());
    }
    framed(Some(view), view.name(), whole(part))
}

fn safe(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "HX-Request"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// After an action, back to where it was asked for.
fn back(to: &str) -> Response {
    // Only to a page of ours.
    let to = match to.starts_with('/') && !to.starts_with("//") && !to.contains('\\') {
        true => to,
        false => "/",
    };
    Redirect::to(to).into_response()
}

/// A form that does one thing, where the reader may.
fn action(
    rights: Rights,
    path: &str,
    fields: &[(&str, &str)],
    label: &str,
    confirm: Option<&str>,
) -> Markup {
    html! {
        @if rights == Rights::Change {
            form.action method="post" action=(path) {
                @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                @match confirm {
                    Some(question) => details {
                        summary { (label) }
                        p { (question) }
                        button.danger type="submit" { (label) }
                    },
                    None => button type="submit" { (label) },
                }
            }
        }
    }
}

fn not_found(what: String) -> Failed {
    Failed(Problem::new(StatusCode::NOT_FOUND, what))
}

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
