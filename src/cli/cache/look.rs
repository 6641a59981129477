//! `cache ls`, `cache show`, `cache stats`.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde::Deserialize;
use serde_json::{Value, json};

use super::with;
use crate::cli::api::{Api, quoted, read};
use crate::cli::words::{ago, bytes, count, short, table};
use crate::cli::{images, say};

/// List the images that are cached.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "ls")]
pub(super) struct CacheLs {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// only of this registry, such as ghcr.io
    #[argh(option)]
    registry: Option<String>,
    /// only of this repository, such as library/alpine
    #[argh(option)]
    repository: Option<String>,
    /// print JSON, as /api/v1/images does
    #[argh(switch)]
    json: bool,
    /// only images with this somewhere in their names
    #[argh(positional)]
    text: Option<String>,
}

/// Show one image: its platforms or layers, and which of them are cached.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "show")]
pub(super) struct CacheShow {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// print JSON, as /api/v1/image does
    #[argh(switch)]
    json: bool,
    /// image, by tag or by digest
    #[argh(positional)]
    image: String,
}

/// Show the cache in numbers.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "stats")]
pub(super) struct CacheStats {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// print JSON, as /api/v1/cache does
    #[argh(switch)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    digest: String,
    size: u64,
    cached_size: u64,
    confirmed: u64,
    pinned: bool,
}

#[derive(Debug, Deserialize)]
struct Detail {
    name: String,
    digest: String,
    media_type: String,
    confirmed: Option<u64>,
    pinned: bool,
    platforms: Vec<Part>,
    config: Option<Part>,
    layers: Vec<Part>,
}

/// A platform, a configuration or a layer.
#[derive(Debug, Deserialize)]
struct Part {
    platform: Option<String>,
    digest: String,
    media_type: String,
    size: u64,
    cached: bool,
    cached_size: Option<u64>,
    shared_by: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    blobs: u64,
    manifests: u64,
    bytes: u64,
    max_bytes: u64,
    tags: u64,
    repositories: u64,
    pinned: u64,
    oldest_use: Option<u64>,
}

// === impl CacheLs ===

impl CacheLs {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let (config, gateway) = (self.config.take(), self.gateway.take());
        let images = with(config, gateway, async |api| self.list(api).await)?;
        if self.json {
            say(&format!("{:#}\n", json!({ "images": images })));
            return Ok(());
        }
        let heads = ["IMAGE", "DIGEST", "SIZE", "CACHED", "CONFIRMED", ""];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for image in &images {
            let row: Row = read(image)?;
            rows.push(vec![
                row.name,
                short(&row.digest),
                bytes(row.size),
                percent(row.cached_size, row.size),
                ago(row.confirmed),
                if row.pinned { "pinned" } else { "" }.to_owned(),
            ]);
        }
        say(&table(&rows));
        Ok(())
    }

    /// All pages.
    async fn list(&self, api: &Api) -> anyhow::Result<Vec<Value>> {
        let mut query = format!("limit={PAGE}");
        for (name, text) in [
            ("registry", &self.registry),
            ("repository", &self.repository),
            ("q", &self.text),
        ] {
            if let Some(text) = text {
                query.push_str(&format!("&{name}={}", quoted(text)));
            }
        }
        let mut images = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = api.get(&format!("/api/v1/images?{query}{after}")).await?;
            if let Some(rows) = page.get_mut("images").and_then(Value::as_array_mut) {
                images.append(rows);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => after = format!("&after={}", quoted(next)),
                None => return Ok(images),
            }
        }
    }
}

// === impl CacheShow ===

impl CacheShow {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let image = images::named(&[self.image], None)?;
        let path = format!("/api/v1/image?name={}", quoted(&image[0]));
        let answer = with(self.config, self.gateway, async |api| api.get(&path).await)?;
        if self.json {
            say(&format!("{answer:#}\n"));
            return Ok(());
        }
        let detail: Detail = read(&answer)?;
        let mut rows = vec![
            vec!["image".to_owned(), detail.name],
            vec!["digest".to_owned(), detail.digest],
            vec!["type".to_owned(), detail.media_type],
        ];
        if let Some(at) = detail.confirmed {
            rows.push(vec!["confirmed".to_owned(), ago(at)]);
        }
        let pinned = if detail.pinned { "yes" } else { "no" };
        rows.push(vec!["pinned".to_owned(), pinned.to_owned()]);
        let mut text = table(&rows);
        let parts: Vec<(&str, &Part)> = detail
            .platforms
            .iter()
            .map(|part| (part.platform.as_deref().unwrap_or("other"), part))
            .chain(detail.config.iter().map(|part| ("config", part)))
            .chain(detail.layers.iter().map(|part| ("layer", part)))
            .collect();
        let rows = parts.into_iter().map(|(what, part)| {
            let here = match (part.cached, part.cached_size) {
                (false, _) => "not cached".to_owned(),
                (true, Some(cached)) => format!("{} cached", percent(cached, part.size)),
                (true, None) => "cached".to_owned(),
            };
            let shared = match part.shared_by {
                None | Some(0) => part.media_type.clone(),
                Some(n) => format!("{}, shared with {}", part.media_type, count(n, "other")),
            };
            vec![
                what.to_owned(),
                part.digest.clone(),
                bytes(part.size),
                here,
                shared,
            ]
        });
        text.push('\n');
        text.push_str(&table(&rows.collect::<Vec<_>>()));
        say(&text);
        Ok(())
    }
}

// === impl CacheStats ===

impl CacheStats {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let answer = with(self.config, self.gateway, async |api| {
            api.get("/api/v1/cache").await
        })?;
        if self.json {
            say(&format!("{answer:#}\n"));
            return Ok(());
        }
        let stats: Stats = read(&answer)?;
        let (used, most) = (bytes(stats.bytes), bytes(stats.max_bytes));
        let share = percent(stats.bytes, stats.max_bytes);
        let rows = [
            ("on disk", format!("{used} of {most}, {share}")),
            ("blobs", stats.blobs.to_string()),
            ("manifests", stats.manifests.to_string()),
            ("tags", stats.tags.to_string()),
            ("repositories", stats.repositories.to_string()),
            ("pinned", stats.pinned.to_string()),
            (
                "next to go",
                stats.oldest_use.map_or("nothing".to_owned(), |at| {
                    format!("what was last used {}", ago(at))
                }),
            ),
        ];
        let rows = rows.map(|(what, value)| vec![what.to_owned(), value]);
        say(&table(&rows));
        Ok(())
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0} %", part as f64 * 100.0 / whole as f64),
    }
}

const PAGE: usize = 1000;
