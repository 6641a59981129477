//! What the cache holds: registry → repository → tag → platforms, configuration, layers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Admin, Failed, Rights, View, action, framed, not_found, part_or_page, words};
use crate::admin::api::images::{Listing, Named, full_name};
use crate::cache::catalog::{BlobRow, ImageDetail, ImageRow, Page};

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(listing): Query<Listing>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let page = admin.cache.images(&listing.filter()?).await;
    let part = list(&listing, &page);
    let registries = match headers.contains_key("hx-request") {
        true => Vec::new(),
        false => admin.cache.registries().await,
    };
    let searched = listing.q.clone().unwrap_or_default();
    Ok(part_or_page(&headers, View::Images, part, |part| {
        html! {
            h1 { "Images" }
            form.search role="search" action="/images" method="get" {
                label for="q" { "Search" }
                input id="q" type="search" name="q" value=(searched) placeholder="registry/repository:tag" autocomplete="off"
                    hx-get="/images" hx-trigger="input changed delay:200ms, search" hx-target="#list" hx-include="closest form";
                @if let Some(registry) = &listing.registry { input type="hidden" name="registry" value=(registry); }
                button type="submit" { "Search" }
            }
            nav.spans aria-label="Registries" {
                a href="/images" aria-current=[listing.registry.is_none().then_some("true")] { "all" }
                @for one in &registries {
                    a href={ "/images?registry=" (encoded(&one.registry)) } aria-current=[(listing.registry.as_deref() == Some(&one.registry)).then_some("true")] {
                        (one.registry) " " small { (words::count(one.tags)) }
                    }
                }
            }
            div id="list" aria-live="polite" { (part) }
            @if rights == Rights::Change {
                section aria-labelledby="pull" {
                    h2 id="pull" { "Pull now" }
                    form.search method="post" action="/actions/pull" {
                        input type="hidden" name="back" value="/live";
                        label for="image" { "Image" }
                        input id="image" name="image" required placeholder="ghcr.io/org/app:1";
                        label for="platform" { "Platform" }
                        input id="platform" name="platform" placeholder="all" size="12";
                        button type="submit" { "Pull" }
                    }
                }
            }
        }
    }))
}

fn list(listing: &Listing, page: &Page<ImageRow>) -> Markup {
    html! {
        @if page.rows.is_empty() {
            p.quiet { "No image is cached that fits. What clients pull appears here." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Images" { table {
                thead { tr { th scope="col" { "Image" } th scope="col" { "Digest" } th.n scope="col" { "Size" } th scope="col" { "Cached" } th scope="col" { "Confirmed" } } }
                tbody {
                    @for row in &page.rows {
                        @let name = full_name(row);
                        tr {
                            th scope="row" {
                                a href={ "/image?name=" (encoded(&name)) } { (name) }
                                @if row.pinned { " " span.tag { "pinned" } }
                            }
                            td { (words::digest(&row.digest)) }
                            td.n { (words::bytes(row.total_size)) }
                            td {
                                @if !row.cached { "evicted" }
                                @else if row.total_size == 0 { "manifest only" }
                                @else { (words::bar(row.cached_size, row.total_size, "cached")) " " (words::share(row.cached_size, row.total_size)) }
                            }
                            td { (words::ago(row.confirmed)) }
                        }
                    }
                }
            } }
            @if let Some(next) = &page.next {
                p { a rel="next" href={ "/images?after=" (encoded(next)) (kept("q", &listing.q)) (kept("registry", &listing.registry)) (kept("repository", &listing.repository)) } { "More" } }
            }
        }
    }
}

pub async fn one(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(named): Query<Named>,
) -> Result<Response, Failed> {
    let id = admin.image_id(&named.name)?;
    let found = admin.cache.image(&id).await;
    let detail = found.ok_or_else(|| not_found(format!("{id} is not cached")))?;
    let body = opened(rights, &named.name, &detail);
    Ok(framed(Some(View::Images), &named.name, body))
}

fn opened(rights: Rights, name: &str, detail: &ImageDetail) -> Markup {
    let here = format!("/image?name={}", encoded(name));
    let (to_pin, pin) = match detail.pinned {
        true => ("false", "Unpin"),
        false => ("true", "Pin"),
    };
    let registry = crate::cache::catalog::registry_of(&detail.image.origin);
    let repository = &detail.image.repository;
    html! {
        nav.crumbs aria-label="Place" {
            a href="/images" { "Images" } " / "
            a href={ "/images?registry=" (encoded(registry)) } { (registry) } " / "
            a href={ "/images?registry=" (encoded(registry)) "&repository=" (encoded(repository.as_str())) } { (repository) }
        }
        h1 { (detail.image) @if detail.pinned { " " span.tag { "pinned" } } }
        dl.facts {
            dt { "Digest" } dd { code { (detail.digest) } }
            dt { "Type" } dd { code { (detail.media_type) } }
            @if let Some(confirmed) = detail.confirmed { dt { "Confirmed upstream" } dd { (words::ago(confirmed)) } }
        }
        div.actions {
            (action(rights, "/actions/pin", &[("name", name), ("pinned", to_pin), ("back", &here)], pin, None))
            (action(rights, "/actions/pull", &[("image", name), ("refresh", "true"), ("back", "/live")], "Refresh", None))
            (action(rights, "/actions/remove", &[("name", name), ("back", "/images")], "Remove", Some("The tag is forgotten, and what no other cached image needs is deleted.")))
            a.button href={ "/api/v1/export?image=" (encoded(name)) } download="image.tar" { "Export" }
        }
        @if !detail.platforms.is_empty() {
            h2 { "Platforms" }
            div.scroll tabindex="0" role="region" aria-label="Platforms" { table {
                thead { tr { th scope="col" { "Platform" } th scope="col" { "Digest" } th.n scope="col" { "Size" } th scope="col" { "Cached" } } }
                tbody {
                    @for row in &detail.platforms {
                        tr {
                            th scope="row" { @match &row.platform { Some(platform) => (platform), None => span.quiet { "attestation" } } }
                            td {
                                @if row.cached { a href={ "/image?name=" (encoded(&format!("{registry}/{repository}@{}", row.digest))) } { (words::digest(row.digest.as_str())) } }
                                @else { (words::digest(row.digest.as_str())) }
                            }
                            td.n { @if row.cached { (words::bytes(row.total_size)) } @else { "–" } }
                            td { @if row.cached { (words::bar(row.cached_size, row.total_size, "cached")) " " (words::share(row.cached_size, row.total_size)) } @else { span.quiet { "not pulled" } } }
                        }
                    }
                }
            } }
        }
        @if detail.config.is_some() || !detail.layers.is_empty() {
            h2 { "Layers" }
            div.scroll tabindex="0" role="region" aria-label="Layers" { table {
                thead { tr { th scope="col" { "Part" } th scope="col" { "Digest" } th scope="col" { "Type" } th.n scope="col" { "Size" } th scope="col" { "Cached" } th.n scope="col" { "Shared by" } } }
                tbody {
                    @if let Some(config) = &detail.config { (blob("configuration", config)) }
                    @for (at, layer) in detail.layers.iter().enumerate() { (blob(&format!("layer {}", at + 1), layer)) }
                }
            } }
        }
    }
}

fn blob(part: &str, row: &BlobRow) -> Markup {
    html! {
        tr {
            th scope="row" { (part) }
            td { (words::digest(row.digest.as_str())) }
            td { small { (row.media_type) } }
            td.n { (words::bytes(row.size)) }
            td { @if row.cached { span.good { "yes" } } @else { span.quiet { "no" } } }
            td.n { @match row.shared_by { 0 => "–", 1 => "1 other", n => { (words::count(n)) " others" } } }
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn kept(name: &str, value: &Option<String>) -> String {
    match value {
        Some(value) if !value.is_empty() => format!("&{name}={}", encoded(value)),
        _ => String::new(),
    }
}
