//! What the cache holds: registries → repositories → tags, and a search through all of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Admin, Failed, Rights, Said, View, encoded, table, words};
use crate::admin::api::images::{Listing, full_name};
use crate::cache::catalog::{ImageRow, Page, RepositoryRow, registry_of};

/// What is asked for in the page's address.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    registry: Option<String>,
    repository: Option<String>,
    q: Option<String>,
    after: Option<String>,
    said: Option<Said>,
}

/// What is listed.
enum List {
    Repositories(Page<RepositoryRow>),
    Tags(Page<ImageRow>),
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let asked = asked.without_empty();
    let filter = asked.listing().filter()?;
    let list = match asked.q.is_some() || asked.repository.is_some() {
        true => List::Tags(admin.cache.images(&filter).await),
        false => List::Repositories(admin.cache.repositories(&filter).await),
    };
    let found = list.found(asked.after.is_some());
    let rows = html! { div id="list" { (list.rows(&admin, &asked)) } };
    if super::wants_part(&headers) {
        let part = html! { (rows) span id="found" hx-swap-oob="innerHTML" { (found) } };
        return Ok(View::Images
            .frame(rights)
            .around_part(&headers, part, |part| part));
    }
    let origins = admin.cache.origins().await;
    let mut frame = View::Images.frame(rights);
    frame.said = asked.said;
    let body = html! {
        div.title { h1 { "Images" } p.quiet role="status" id="found" { (found) } }
        (search(&asked))
        (registries(&asked, &origins))
        @if let Some(repository) = &asked.repository {
            nav.crumbs aria-label="Place" {
                a href="/images" { "Images" } " / "
                @if let Some(registry) = &asked.registry { a href={ "/images?registry=" (encoded(registry)) } { (registry) } " / " }
                span aria-current="page" { (repository) }
            }
        }
        (rows)
        @if rights == Rights::Change { (pull()) }
    };
    Ok(frame.around(body))
}

fn search(asked: &Asked) -> Markup {
    html! {
        form.search role="search" action="/images" method="get" {
            label for="q" { "Search" }
            input id="q" type="search" name="q" value=(asked.q.as_deref().unwrap_or_default()) placeholder="registry/repository:tag" autocomplete="off" spellcheck="false"
                hx-get="/images" hx-trigger="input changed delay:150ms, search" hx-target="#list" hx-swap="outerHTML" hx-include="closest form" hx-sync="this:replace" hx-replace-url="true";
            @for (name, value) in [("registry", &asked.registry), ("repository", &asked.repository)] {
                @if let Some(value) = value { input type="hidden" name=(name) value=(value); }
            }
            button type="submit" { "Search" }
        }
    }
}

fn registries(asked: &Asked, origins: &[String]) -> Markup {
    html! {
        @if !origins.is_empty() {
            nav.choices aria-label="Registries" {
                a href={ "/images" (asked.with("?", "q", &asked.q)) } aria-current=[asked.registry.is_none().then_some("true")] { "All" }
                @for origin in origins {
                    @let registry = registry_of(origin);
                    a href={ "/images?registry=" (encoded(origin)) (asked.with("&", "q", &asked.q)) }
                        aria-current=[asked.registry.as_deref().is_some_and(|one| one == registry || one == origin).then_some("true")] {
                        (registry) @if registry != origin { " (http)" }
                    }
                }
            }
        }
    }
}

fn pull() -> Markup {
    html! {
        section {
            h2 id="pull" { "Pull now" }
            form.search method="post" action="/actions/pull" {
                input type="hidden" name="back" value="/live";
                label for="image" { "Image" }
                input id="image" name="image" required placeholder="ghcr.io/org/app:1" autocomplete="off" spellcheck="false";
                label for="platform" { "Platforms" }
                input id="platform" name="platform" placeholder="all" size="14" autocomplete="off" spellcheck="false" aria-describedby="platform-help";
                button type="submit" { "Pull" }
            }
            p.quiet id="platform-help" { "Into the cache, before anybody asks. Platforms as in " code { "linux/amd64" } ", several with commas between them." }
        }
    }
}

// === impl Asked ===

impl Asked {
    /// A form sends its empty fields, too.
    fn without_empty(self) -> Self {
        let some = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Self {
            registry: some(self.registry),
            repository: some(self.repository),
            q: some(self.q),
            after: some(self.after),
            said: self.said,
        }
    }

    fn listing(&self) -> Listing {
        Listing {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            q: self.q.as_ref().map(|text| text.trim().to_owned()),
            after: self.after.clone(),
            limit: None,
        }
    }

    /// `name=value` for an address, after `mark`; nothing for nothing.
    fn with(&self, mark: &str, name: &str, value: &Option<String>) -> String {
        match value {
            Some(value) => format!("{mark}{name}={}", encoded(value)),
            None => String::new(),
        }
    }

    /// The address of the page after this one.
    fn next(&self, after: &str) -> String {
        let mut address = format!("/images?after={}", encoded(after));
        for (name, value) in [
            ("q", &self.q),
            ("registry", &self.registry),
            ("repository", &self.repository),
        ] {
            address += &self.with("&", name, value);
        }
        address
    }
}

// === impl List ===

impl List {
    /// How many there are, for who does not see them.
    fn found(&self, further: bool) -> String {
        let (n, more, what) = match self {
            Self::Repositories(page) => (page.rows.len(), page.next.is_some(), "repositories"),
            Self::Tags(page) => (page.rows.len(), page.next.is_some(), "images"),
        };
        let what = match (n, what) {
            (1, "images") => "image",
            (1, _) => "repository",
            _ => what,
        };
        let and = match (further, more) {
            (false, false) => "",
            (true, false) => ", the last",
            (_, true) => ", and more",
        };
        format!("{n} {what}{and}")
    }

    fn rows(&self, admin: &Admin, asked: &Asked) -> Markup {
        let next = match self {
            Self::Repositories(page) => &page.next,
            Self::Tags(page) => &page.next,
        };
        html! {
            @match self {
                Self::Repositories(page) if page.rows.is_empty() => {
                    p.empty { "Nothing is cached yet. What clients pull appears here." }
                }
                Self::Tags(page) if page.rows.is_empty() => {
                    p.empty { "No cached image fits. " a href="/images" { "All images" } }
                }
                Self::Repositories(page) => (repositories(&page.rows)),
                Self::Tags(page) => (tags(admin, asked, &page.rows)),
            }
            @if let Some(next) = next { p { a.button rel="next" href=(asked.next(next)) { "More" } } }
        }
    }
}

fn repositories(rows: &[RepositoryRow]) -> Markup {
    table(
        "Repositories",
        html! { th scope="col" { "Repository" } th scope="col" { "Registry" } th.n scope="col" { "Tags" } th.n scope="col" { "Pinned" } },
        html! {
            @for row in rows {
                tr {
                    th scope="row" {
                        a href={ "/images?registry=" (encoded(&row.origin)) "&repository=" (encoded(&row.repository)) } { (row.repository) }
                    }
                    td { (row.registry) }
                    td.n { (words::count(row.tags)) }
                    td.n { @if row.pinned == 0 { "–" } @else { (words::count(row.pinned)) } }
                }
            }
        },
    )
}

fn tags(admin: &Admin, asked: &Asked, rows: &[ImageRow]) -> Markup {
    // In one repository its name is said above.
    let short = asked.repository.is_some() && asked.registry.is_some();
    table(
        if short { "Tags" } else { "Images" },
        html! {
            th scope="col" { @if short { "Tag" } @else { "Image" } } th scope="col" { "Digest" } th scope="col" { "Cached" }
            th scope="col" { "Complete" } th.n scope="col" { "Size" } th scope="col" { "Freshness" }
        },
        html! {
            @for row in rows {
                @let name = full_name(row);
                tr {
                    th scope="row" {
                        a href={ "/image?name=" (encoded(&name)) } {
                            @match (&row.tag, short) { (Some(tag), true) => (tag), _ => (name) }
                        }
                        @if row.pinned { " " span.tag { "pinned" } }
                    }
                    td { (words::digest(&row.digest)) }
                    td { @match row.since { Some(since) => (words::ago(since)), None => span.quiet { "evicted" } } }
                    td { (complete(row)) }
                    td.n { @if row.total_size > 0 { (words::bytes(row.total_size)) } @else { "–" } }
                    td { (freshness(admin, &row.registry, row.tag.as_deref(), row.confirmed)) }
                }
            }
        },
    )
}

fn complete(row: &ImageRow) -> Markup {
    html! {
        @if !row.cached { span.quiet { "not cached" } }
        @else if row.total_size == 0 { span.quiet { "manifest only" } }
        @else { (words::bar(row.cached_size, row.total_size, "Cached")) " " (words::share(row.cached_size, row.total_size)) }
    }
}

/// Whether upstream is asked at the next pull.
pub fn freshness(admin: &Admin, registry: &str, tag: Option<&str>, confirmed: u64) -> Markup {
    let Some(tag) = tag else {
        return html! { "by digest: for ever" };
    };
    let ttl = admin.steering.tag_ttl(registry, tag);
    let age = Duration::from_secs(super::super::now().saturating_sub(confirmed));
    html! {
        @if age < ttl {
            span.good { "fresh for " (words::lasting(ttl - age)) }
        } @else {
            "asked at the next pull"
        }
        br; small { "confirmed " (words::ago(confirmed)) }
    }
}
