//! One image, opened: platforms, configuration, layers; and one blob, with the images that share it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::images::freshness;
use super::{Admin, Failed, Rights, Said, View, action, encoded, not_found, table, words};
use crate::cache::catalog::{About, BlobRow, ImageDetail, PlatformRow, Shared, registry_of};
use crate::oci::reference::Reference;

/// Which image.
#[derive(Debug, Deserialize)]
pub struct Asked {
    name: String,
    said: Option<Said>,
}

/// Which blob.
#[derive(Debug, Deserialize)]
pub struct Digested {
    digest: String,
}

pub async fn view(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Asked>,
) -> Result<Response, Failed> {
    let id = admin.image_id(&asked.name)?;
    let found = admin.cache.image(&id).await;
    let detail = found.ok_or_else(|| not_found(format!("{id} is not cached")))?;
    let body = opened(&admin, rights, &asked.name, &detail);
    let mut frame = View::Images.frame(rights);
    frame.title = &asked.name;
    frame.said = asked.said;
    Ok(frame.around(body))
}

pub async fn blob(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Query(asked): Query<Digested>,
) -> Result<Response, Failed> {
    let shared = admin.shared(&asked.digest).await?;
    let mut frame = View::Images.frame(rights);
    frame.title = "Blob";
    Ok(frame.around(sharers(&asked.digest, &shared)))
}

fn opened(admin: &Admin, rights: Rights, name: &str, detail: &ImageDetail) -> Markup {
    let registry = registry_of(&detail.image.origin);
    let repository = detail.image.repository.as_str();
    let tag = match &detail.image.reference {
        Reference::Tag(tag) => Some(tag.as_str()),
        Reference::Digest(_) => None,
    };
    let mark = if tag.is_some() { ":" } else { "@" };
    html! {
        nav.crumbs aria-label="Place" {
            a href="/images" { "Images" } " / "
            a href={ "/images?registry=" (encoded(&detail.image.origin)) } { (registry) } " / "
            a href={ "/images?registry=" (encoded(&detail.image.origin)) "&repository=" (encoded(repository)) } { (repository) }
        }
        h1 {
            (repository) (mark) @match tag { Some(tag) => (tag), None => (words::digest(detail.digest.as_str())) }
            @if detail.pinned { " " span.tag { "pinned" } }
        }
        (actions(rights, name, detail))
        dl.facts {
            dt { "Digest" } dd { code { (detail.digest) } }
            dt { "Kind" } dd { (words::kind(&detail.media_type)) " " small { (detail.media_type) } }
            @if let Some(since) = detail.since { dt { "Cached" } dd { (words::ago(since)) } }
            dt { "Freshness" } dd { (freshness(admin, registry, tag, detail.confirmed.unwrap_or(0))) }
            @if let Some(about) = &detail.about { (facts(about)) }
        }
        @if !detail.platforms.is_empty() { (platforms(registry, repository, &detail.platforms)) }
        @if detail.config.is_some() || !detail.layers.is_empty() { (layers(detail)) }
    }
}

fn actions(rights: Rights, name: &str, detail: &ImageDetail) -> Markup {
    let here = format!("/image?name={}", encoded(name));
    let list = format!(
        "/images?registry={}&repository={}",
        encoded(&detail.image.origin),
        encoded(detail.image.repository.as_str())
    );
    let (to_pin, pin) = match detail.pinned {
        true => ("false", "Unpin"),
        false => ("true", "Pin"),
    };
    html! {
        @if rights == Rights::Change {
            div.actions {
                (action(rights, "/actions/pin", &[("name", name), ("pinned", to_pin), ("back", &here)], pin, None))
                (action(rights, "/actions/pull", &[("image", name), ("refresh", "true"), ("back", "/live")], "Refresh", None))
                a.button href={ "/api/v1/export?image=" (encoded(name)) } download="image.tar" { "Export" }
                (action(rights, "/actions/remove", &[("name", name), ("back", &list)], "Remove", Some("The tag is forgotten, and what no other cached image needs is deleted.")))
            }
        }
    }
}

/// What the configuration says.
fn facts(about: &About) -> Markup {
    let line = |words: &[String]| words.join(" ");
    html! {
        dt { "Platform" } dd { (about.platform) }
        @if let Some(created) = &about.created { dt { "Built" } dd { (words::built(created)) } }
        @for (name, text) in [
            ("Entry point", line(&about.entrypoint)), ("Command", line(&about.command)), ("User", about.user.clone()),
            ("Directory", about.working_directory.clone()), ("Ports", about.ports.join(", ")),
        ] {
            @if !text.is_empty() { dt { (name) } dd { code { (text) } } }
        }
        @if !about.labels.is_empty() {
            dt { "Labels" }
            dd {
                details {
                    summary { (words::many(about.labels.len() as u64, "label")) }
                    dl.facts { @for (name, value) in &about.labels { dt { code { (name) } } dd { (value) } } }
                }
            }
        }
    }
}

fn platforms(registry: &str, repository: &str, rows: &[PlatformRow]) -> Markup {
    html! {
        h2 { "Platforms" }
        (table("Platforms", html! {
            th scope="col" { "Platform" } th scope="col" { "Digest" } th scope="col" { "Cached" } th.n scope="col" { "Size" }
        }, html! {
            @for row in rows {
                @let name = format!("{registry}/{repository}@{}", row.digest);
                tr {
                    th scope="row" {
                        @match (&row.platform, row.cached) {
                            (Some(platform), true) => a href={ "/image?name=" (encoded(&name)) } { (platform) },
                            (Some(platform), false) => (platform),
                            (None, true) => a href={ "/image?name=" (encoded(&name)) } { "attestation" },
                            (None, false) => span.quiet { "attestation" },
                        }
                    }
                    td { (words::digest(row.digest.as_str())) }
                    td {
                        @if row.cached { (words::bar(row.cached_size, row.total_size, "Cached")) " " (words::share(row.cached_size, row.total_size)) }
                        @else { span.quiet { "not pulled" } }
                    }
                    td.n { @if row.cached { (words::bytes(row.total_size)) } @else { "–" } }
                }
            }
        }))
    }
}

fn layers(detail: &ImageDetail) -> Markup {
    let about = detail.about.as_ref();
    // Steps are told apart by their number only where each layer has one.
    let made_by = about.filter(|about| about.made_by.len() == detail.layers.len());
    html! {
        h2 { "Configuration and layers" }
        (table("Configuration and layers", html! {
            th scope="col" { "Part" } th scope="col" { "Digest" } th.n scope="col" { "Size" } th scope="col" { "Cached" }
            th scope="col" { "Shared with" } th scope="col" { "Made by" }
        }, html! {
            @if let Some(config) = &detail.config { (row("Configuration", config, None)) }
            @for (at, layer) in detail.layers.iter().enumerate() {
                (row(&format!("Layer {}", at + 1), layer, made_by.and_then(|about| about.made_by.get(at))))
            }
        }))
    }
}

fn row(part: &str, row: &BlobRow, made_by: Option<&String>) -> Markup {
    let digest = row.digest.as_str();
    html! {
        tr {
            th scope="row" { (part) }
            td { a href={ "/blob?digest=" (encoded(digest)) } { (words::digest(digest)) } }
            td.n { (words::bytes(row.size)) }
            td { @if row.cached { span.good { "yes" } } @else { span.quiet { "no" } } }
            td { @match row.shared_by { 0 => span.quiet { "nobody" }, n => (words::many(n, "other image")) } }
            td.step { @match made_by { Some(step) if !step.is_empty() => code { (words::step(step)) }, _ => small { (row.media_type) } } }
        }
    }
}

fn sharers(digest: &str, shared: &Shared) -> Markup {
    html! {
        nav.crumbs aria-label="Place" { a href="/images" { "Images" } " / " span aria-current="page" { "blob" } }
        h1 { "Blob " (words::digest(digest)) }
        dl.facts {
            dt { "Digest" } dd { code { (digest) } }
            @match shared.size {
                Some(size) => {
                    dt { "Size" } dd { (words::bytes(size)) }
                    @if let Some(since) = shared.since { dt { "Cached" } dd { (words::ago(since)) } }
                    @if let Some(last_use) = shared.last_use { dt { "Last used" } dd { (words::ago(last_use)) } }
                },
                None => { dt { "Cached" } dd { "no" } },
            }
            dt { "Part of" } dd { (words::many(shared.manifests.len() as u64, "cached manifest")) }
        }
        h2 { "Images that share it" }
        @if shared.images.is_empty() { p.empty { "No tag leads to it." } } @else {
            ul { @for name in &shared.images { li { a href={ "/image?name=" (encoded(name)) } { (name) } } } }
            @if shared.more { p.quiet { "and more" } }
        }
    }
}
