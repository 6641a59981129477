//! `cache prune`, `cache rm`, `cache pin`, `cache unpin`.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::with;
use crate::cli::api::{Api, quoted, read};
use crate::cli::words::{bytes, count};
use crate::cli::{Misused, complain, images, say};

/// Take out what was not used for a while. What is pinned stays.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "prune")]
pub(super) struct CachePrune {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// how long it was not used, such as 30d or 12h
    #[argh(option)]
    unused_for: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Forget images: their tags, and what no other cached image needs, pinned or not.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "rm")]
pub(super) struct CacheRm {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// images, by tag or by digest
    #[argh(positional)]
    image: Vec<String>,
}

/// Pin images: they are never evicted, and served as long as upstream is away.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "pin")]
pub(super) struct CachePin {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// images, by tag or by digest
    #[argh(positional)]
    image: Vec<String>,
}

/// Unpin images: they are as any others.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unpin")]
pub(super) struct CacheUnpin {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// images, by tag or by digest
    #[argh(positional)]
    image: Vec<String>,
}

/// What was taken out.
#[derive(Debug, Deserialize)]
struct Freed {
    tags: u64,
    manifests: u64,
    blobs: u64,
    bytes: u64,
}

// === impl CachePrune ===

impl CachePrune {
    pub(super) fn run(self) -> anyhow::Result<()> {
        humantime::parse_duration(&self.unused_for)
            .map_err(|e| Misused(format!("--unused-for: {e}; say for example 30d")))?;
        let body = json!({ "unused_for": self.unused_for });
        let path = "/api/v1/cache/prune";
        let freed = with(self.config, self.gateway, async |api| {
            api.ask(Method::POST, path, Some(&body)).await
        })?;
        tell(&freed, self.json, "")
    }
}

// === impl CacheRm ===

impl CacheRm {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let images = images::named(&self.image, None)?;
        with(self.config, self.gateway, async |api| {
            let of_each = each(api, &images, Method::DELETE, "", None);
            let (answers, failed) = of_each.await?;
            if self.json {
                say(&format!("{:#}\n", json!({ "removed": answers })));
            } else {
                for answer in &answers {
                    let image = answer.get("image").and_then(Value::as_str);
                    tell(answer, false, &format!("{}  ", image.unwrap_or_default()))?;
                }
            }
            failed
        })
    }
}

// === impl CachePin ===

impl CachePin {
    pub(super) fn run(self) -> anyhow::Result<()> {
        pin(self.config, self.gateway, &self.image, true)
    }
}

// === impl CacheUnpin ===

impl CacheUnpin {
    pub(super) fn run(self) -> anyhow::Result<()> {
        pin(self.config, self.gateway, &self.image, false)
    }
}

fn pin(
    config: Option<PathBuf>,
    gateway: Option<String>,
    written: &[String],
    pinned: bool,
) -> anyhow::Result<()> {
    let images = images::named(written, None)?;
    let body = json!({ "pinned": pinned });
    with(config, gateway, async |api| {
        let (_, failed) = each(api, &images, Method::PUT, "/pin", Some(&body)).await?;
        failed
    })
}

/// Asks for the same of each image. One that is refused stops no other; it makes the second half of the
/// answer an error.
async fn each(
    api: &Api,
    images: &[String],
    method: Method,
    what: &str,
    body: Option<&Value>,
) -> anyhow::Result<(Vec<Value>, anyhow::Result<()>)> {
    let mut answers = Vec::new();
    let mut refused = 0;
    for image in images {
        let path = format!("/api/v1/image{what}?name={}", quoted(image));
        match api.ask(method.clone(), &path, body).await {
            Ok(Value::Object(mut answer)) => {
                answer.insert("image".to_owned(), image.clone().into());
                answers.push(answer.into());
            }
            Ok(other) => answers.push(other),
            Err(e) if e.is::<crate::cli::api::Refused>() => {
                complain(&format!("pierhead: {e}"));
                refused += 1;
            }
            Err(e) => return Err(e),
        }
    }
    let failed = match refused {
        0 => Ok(()),
        n => Err(anyhow::anyhow!(
            "{n} of {} images were refused",
            images.len()
        )),
    };
    Ok((answers, failed))
}

fn tell(answer: &Value, as_json: bool, before: &str) -> anyhow::Result<()> {
    if as_json {
        say(&format!("{answer:#}\n"));
        return Ok(());
    }
    let freed: Freed = read(answer)?;
    if freed.tags == 0 && freed.manifests == 0 && freed.blobs == 0 {
        say(&format!("{before}nothing to take out\n"));
        return Ok(());
    }
    let tags = match freed.tags {
        0 => String::new(),
        n => format!("{}, ", count(n, "tag")),
    };
    say(&format!(
        "{before}{tags}{}, {} gone: {} free\n",
        count(freed.manifests, "manifest"),
        count(freed.blobs, "blob"),
        bytes(freed.bytes)
    ));
    Ok(())
}
