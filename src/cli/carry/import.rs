//! `pierhead import`: a file of images into the cache.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use argh::{ArgsInfo, FromArgs};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::bar;
use crate::cli::api::{Api, Body, Purpose, quoted, read};
use crate::cli::words::{bytes, count};
use crate::cli::{complain, images, run_async, say};

/// Take images in from a file that export, skopeo or docker wrote, verified. They are pinned, and served to
/// all whom the gateway serves, with or without an upstream. Of a file that is damaged nothing is kept.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "import")]
pub struct Import {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// what the image is called where the file does not say
    #[argh(option)]
    name: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// the file to read ("-": standard input)
    #[argh(positional)]
    file: PathBuf,
}

/// What came in.
#[derive(Debug, Deserialize)]
struct Report {
    images: Vec<TakenIn>,
    added_bytes: u64,
    known: u64,
    refused: Vec<Rejected>,
}

#[derive(Debug, Deserialize)]
struct TakenIn {
    name: String,
    digest: String,
    absent: u64,
}

#[derive(Debug, Deserialize)]
struct Rejected {
    image: String,
    why: String,
}

// === impl Import ===

impl Import {
    pub fn run(self) -> anyhow::Result<()> {
        let mut path = String::from("/api/v1/import");
        if let Some(name) = &self.name {
            let name = images::named(std::slice::from_ref(name), None)?;
            path.push_str(&format!("?name={}", quoted(&name[0])));
        }
        run_async(async {
            let shown = self.file.display().to_string();
            // Before a directory is made for it.
            let source = Source::open(&self.file)
                .await
                .with_context(|| shown.clone())?;
            let gateway = self.gateway.as_deref();
            let api = Api::reach(self.config.as_deref(), gateway, Purpose::Fill).await?;
            let result = send(&api, &path, source).await;
            api.close().await;
            self.tell(&result.with_context(|| shown.clone())?)
        })
    }

    fn tell(&self, answer: &Value) -> anyhow::Result<()> {
        let report: Report = read(answer)?;
        if self.json {
            say(&format!("{answer:#}\n"));
        } else {
            for image in &report.images {
                let absent = match image.absent {
                    0 => String::new(),
                    n => format!("  without {} of its index", count(n, "platform")),
                };
                say(&format!("{}  {}{absent}\n", image.name, image.digest));
            }
            say(&format!(
                "{}, {} new, {} known\n",
                count(report.images.len() as u64, "image"),
                bytes(report.added_bytes),
                count(report.known, "object")
            ));
        }
        for refused in &report.refused {
            complain(&format!("pierhead: {}: {}", refused.image, refused.why));
        }
        match report.refused.len() {
            0 => Ok(()),
            n => bail!("{n} of the file's images could not be taken in"),
        }
    }
}

/// A file on its way in.
struct Source {
    file: tokio::fs::File,
    bar: ProgressBar,
}

// === impl Source ===

impl Source {
    async fn open(path: &Path) -> io::Result<Self> {
        let path = match path == Path::new("-") {
            true => Path::new("/dev/stdin"),
            false => path,
        };
        let file = tokio::fs::File::open(path).await?;
        let meta = file.metadata().await?;
        if meta.is_dir() {
            return Err(io::Error::other(
                "this is a directory; a layout is imported as a tar: tar -C DIR -c . | pierhead import -",
            ));
        }
        Ok(Self {
            file,
            bar: bar(meta.len(), "import"),
        })
    }

    fn into_body(self) -> Body {
        let chunks = stream::unfold(self, |mut source| async move {
            let mut chunk = vec![0; CHUNK];
            match source.file.read(&mut chunk).await {
                Ok(0) => {
                    source.bar.finish_and_clear();
                    None
                }
                Ok(read) => {
                    chunk.truncate(read);
                    source.bar.inc(read as u64);
                    Some((Ok(Frame::data(Bytes::from(chunk))), source))
                }
                Err(e) => Some((Err(e), source)),
            }
        });
        StreamBody::new(chunks.fuse()).boxed_unsync()
    }
}

async fn send(api: &Api, path: &str, source: Source) -> anyhow::Result<Value> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(source.into_body())?;
    let answer = api.send(request).await?;
    api.json(answer).await
}

/// Bytes of a file that are sent at a time.
const CHUNK: usize = 256 << 10;
