//! The web page: server-rendered, readable without JavaScript, nothing loaded from elsewhere.

mod actions;
mod assets;
mod clients;
mod image;
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
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

pub(super) use self::assets::assets;
use super::Admin;
use super::api::Problem;
use super::door::{self, Rights};
use crate::telemetry::build;

/// The views, in the order of the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Overview,
    Images,
    Live,
    Registries,
    Clients,
}

/// What an action has done, told on the page that comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Pinned,
    Unpinned,
    Removed,
    Pulling,
    On,
    Off,
}

/// What is around the body of a page.
#[derive(Clone, Copy)]
struct Frame<'a> {
    /// The one of the menu that is open.
    view: Option<View>,
    title: &'a str,
    /// What its reader may do; `None`: nothing of the kind is on it.
    rights: Option<Rights>,
    said: Option<Said>,
}

/// A page that could not be made: said in the page's own frame.
struct Failed(Problem);

/// The views and their actions.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/", get(overview::view))
        .route("/images", get(images::view))
        .route("/image", get(image::view))
        .route("/blob", get(image::blob))
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

    fn frame(self, rights: Rights) -> Frame<'static> {
        Frame {
            view: Some(self),
            title: self.name(),
            rights: Some(rights),
            said: None,
        }
    }
}

// === impl Said ===

impl Said {
    fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::Removed => "removed",
            Self::Pulling => "pulling",
            Self::On => "on",
            Self::Off => "off",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Pinned => "Pinned: it is never evicted.",
            Self::Unpinned => "Unpinned: it may be evicted when room is needed.",
            Self::Removed => "Removed.",
            Self::Pulling => "The pull has begun.",
            Self::On => "The registry is switched on.",
            Self::Off => "The registry is switched off: what is cached is answered.",
        }
    }
}

// === impl Frame ===

impl Frame<'_> {
    /// A whole page around `body`.
    fn around(self, body: Markup) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    // Neither eval nor styles of its own, or the policy below would stop it.
                    meta name="htmx-config" content=r#"{"allowEval":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
                    title { (self.title) " · pierhead" }
                    link rel="icon" type="image/svg+xml" href="/assets/icon.svg";
                    link rel="stylesheet" href="/assets/style.css";
                    script src="/assets/htmx.js" defer {}
                    script src="/assets/page.js" defer {}
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header {
                        div.wide {
                            a.brand href="/" { img src="/assets/icon.svg" alt="" width="22" height="22"; "pierhead" }
                            nav aria-label="Views" {
                                @for one in View::ALL {
                                    a href=(one.path()) aria-current=[(Some(one) == self.view).then_some("page")] { (one.name()) }
                                }
                            }
                        }
                    }
                    main.wide id="main" tabindex="-1" {
                        @if let Some(said) = self.said { p.said role="status" { (said.sentence()) } }
                        (body)
                    }
                    footer.wide {
                        p {
                            (build::NAME) " · " a href="/api/v1/openapi.json" { "API" } " · " a href="/metrics" { "Metrics" }
                        }
                        @if self.rights == Some(Rights::Look) { p { "Read only: " (door::READ_ONLY) "." } }
                    }
                }
            }
        };
        safe(Html(page.into_string()).into_response())
    }

    /// Only the part that a script asked for, or the whole page for everybody else.
    fn around_part(
        self,
        headers: &HeaderMap,
        part: Markup,
        whole: impl FnOnce(Markup) -> Markup,
    ) -> Response {
        if wants_part(headers) {
            return safe(Html(part.into_string()).into_response());
        }
        self.around(whole(part))
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
        let frame = Frame {
            view: None,
            title: "Error",
            rights: None,
            said: None,
        };
        let body = html! {
            h1 { (self.0.status().canonical_reason().unwrap_or("Error")) }
            p.bad role="alert" { (self.0.detail()) }
            p { a href="/" { "Overview" } }
        };
        (self.0.status(), frame.around(body)).into_response()
    }
}

/// Whether a script of ours will put the answer into a page that stands.
fn wants_part(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request") && !headers.contains_key("hx-history-restore-request")
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
fn back(to: &str, said: Said) -> Response {
    // Only to a page of ours.
    let to = match to.starts_with('/') && !to.starts_with("//") && !to.contains('\\') {
        true => to,
        false => "/",
    };
    let mark = if to.contains('?') { '&' } else { '?' };
    Redirect::to(&format!("{to}{mark}said={}", said.word())).into_response()
}

/// A form that does one thing, where the reader may. What cannot be taken back is asked for twice.
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
                    Some(question) => details.confirm {
                        summary.button.danger { (label) "…" }
                        p { (question) }
                        button.danger type="submit" { (label) }
                    },
                    None => button type="submit" { (label) },
                }
            }
        }
    }
}

/// A table that may be wider than the screen: it scrolls by itself, with the keyboard too.
fn table(label: &str, head: Markup, body: Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table { thead { tr { (head) } } tbody { (body) } }
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn not_found(what: String) -> Failed {
    Failed(Problem::new(StatusCode::NOT_FOUND, what))
}

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
