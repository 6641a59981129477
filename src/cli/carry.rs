//! `pierhead export` and `pierhead import`: images across an air gap.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use argh::{ArgsInfo, FromArgs};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::api::{Api, Body, Purpose, quoted, read};
use super::words::{bytes, count};
use super::{Misused, complain, images, run_async, say};

/// Write cached images to a file that skopeo, podman and docker load, and that another gateway imports: an
/// OCI image layout in a tar. One that breaks off is taken up where it stopped when the same command is
/// given again; the file has its name only when it is whole.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "export")]
pub struct Export {
    /// configuration file
    #[argh(option)]
    config: Option<PathBuf>,
    /// admin address of the gateway (default: see pull)
    #[argh(option)]
    gateway: Option<String>,
    /// the file to write ("-": standard output)
    #[argh(option, short = 'o')]
    output: PathBuf,
    /// only this platform, such as linux/arm64; may be repeated
    #[argh(option)]
    platform: Vec<String>,
    /// what is cached about the images too: signatures, bills of material
    #[argh(switch)]
    referrers: bool,
    /// file with an image on each line ("-": standard input)
    #[argh(option)]
    list: Option<PathBuf>,
    /// images, by tag or by digest
    #[argh(positional)]
    image: Vec<String>,
}

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

// === impl Export ===

impl Export {
    pub fn run(self) -> anyhow::Result<()> {
        let images = images::named(&self.image, self.list.as_deref())?;
        images::platforms(&self.platform)?;
        let to_pipe = self.output == Path::new("-");
        if to_pipe && io::stdout().is_terminal() {
            return Err(
                Misused("a tar is nothing for a terminal: -o FILE, or a pipe".to_owned()).into(),
            );
        }
        if !to_pipe {
            Part::prefix(&self.output)?;
        }
        let path = self.path(&images)?;
        let number = images.len() as u64;
        run_async(async {
            let gateway = self.gateway.as_deref();
            let api = Api::reach(self.config.as_deref(), gateway, Purpose::Use).await?;
            let result = match to_pipe {
                true => pour(&api, &path).await,
                false => save(&api, &path, &self.output).await,
            };
            api.close().await;
            let written = result?;
            let (images, size) = (count(number, "image"), bytes(written));
            complain(&format!("{}: {images}, {size}", self.output.display()));
            Ok(())
        })
    }

    /// The tar in the API.
    fn path(&self, images: &[String]) -> anyhow::Result<String> {
        let mut path = String::from("/api/v1/export?");
        let images = images.iter().map(|image| ("image", image));
        let platforms = self.platform.iter().map(|platform| ("platform", platform));
        for (at, (name, value)) in images.chain(platforms).enumerate() {
            let and = if at > 0 { "&" } else { "" };
            path.push_str(&format!("{and}{name}={}", quoted(value)));
        }
        if self.referrers {
            path.push_str("&referrers=true");
        }
        match path.len() {
            0..LONGEST => Ok(path),
            _ => Err(
                Misused("so many images do not go into one file; part the list".to_owned()).into(),
            ),
        }
    }
}

/// Streams the tar to standard output; answers its bytes.
async fn pour(api: &Api, path: &str) -> anyhow::Result<u64> {
    let answer = api
        .well(api.send(get(path).body(nothing())?).await?)
        .await?;
    let mut body = answer.into_body();
    let mut written = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{} broke off; begin anew", api.name()))?;
        if let Some(data) = frame.data_ref() {
            let mut out = io::stdout().lock();
            out.write_all(data).context("standard output")?;
            written += data.len() as u64;
        }
    }
    io::stdout().flush().context("standard output")?;
    Ok(written)
}

/// Writes the tar beside `output`, or the rest of it where a part is there, and gives it its name when it is
/// whole; answers its bytes.
async fn save(api: &Api, path: &str, output: &Path) -> anyhow::Result<u64> {
    let before = Part::find(output)?;
    let mut request = get(path);
    if let Some(part) = &before {
        request = request
            .header(header::RANGE, format!("bytes={}-", part.size))
            .header(header::IF_RANGE, format!("\"{}\"", part.etag));
    }
    let mut answer = api.send(request.body(nothing())?).await?;
    // What is there is whole already, or more than that.
    if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        answer = api.send(get(path).body(nothing())?).await?;
    }
    let answer = api.well(answer).await?;
    let field = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let etag = field(header::ETAG).map(|etag| etag.trim_matches('"').to_owned());
    let etag = etag.filter(|etag| is_tag(etag));
    let etag = etag.ok_or_else(|| anyhow!("{} does not say which tar this is", api.name()))?;
    let length: u64 = field(header::CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| anyhow!("{} does not say how long the tar is", api.name()))?;
    let resumed = answer.status() == StatusCode::PARTIAL_CONTENT;
    let mut part = match before {
        Some(part) if resumed => {
            complain(&format!(
                "{}: goes on at {}",
                output.display(),
                bytes(part.size)
            ));
            part
        }
        other => {
            if let Some(stale) = other {
                complain(&format!(
                    "{}: the images are others than when it broke off; it begins anew",
                    output.display()
                ));
                let _ = std::fs::remove_file(stale.path);
            }
            Part::begin(output, etag)?
        }
    };
    let total = part.size + length;
    let bar = bar(total, &output.display().to_string());
    let mut file = part.open()?;
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(e) => {
                let _ = file.sync_data();
                return Err(e).with_context(|| {
                    format!(
                        "{} broke off at {} of {}; the same command again goes on there",
                        api.name(),
                        bytes(part.size),
                        bytes(total)
                    )
                });
            }
        };
        if let Some(data) = frame.data_ref() {
            file.write_all(data)
                .with_context(|| part.path.display().to_string())?;
            part.size += data.len() as u64;
            bar.set_position(part.size);
        }
    }
    bar.finish_and_clear();
    if part.size != total {
        bail!(
            "{} sent {} of {} bytes; the same command again goes on there",
            api.name(),
            part.size,
            total
        );
    }
    // A stick that is pulled out a moment after the prompt must have it.
    file.sync_all()
        .with_context(|| part.path.display().to_string())?;
    std::fs::rename(&part.path, output).with_context(|| output.display().to_string())?;
    sync_folder(output)?;
    Ok(total)
}

/// What is there of a tar that broke off. Its name says of which.
struct Part {
    path: PathBuf,
    etag: String,
    /// Bytes.
    size: u64,
}

// === impl Part ===

impl Part {
    /// What an earlier try at `output` left.
    fn find(output: &Path) -> anyhow::Result<Option<Self>> {
        let folder = folder(output);
        let prefix = Self::prefix(output)?;
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let etag = name.strip_prefix(&prefix).filter(|etag| is_tag(etag));
            if let (Some(etag), Ok(meta)) = (etag, entry.metadata())
                && meta.is_file()
                && meta.len() > 0
            {
                return Ok(Some(Self {
                    path: entry.path(),
                    etag: etag.to_owned(),
                    size: meta.len(),
                }));
            }
        }
        Ok(None)
    }

    fn begin(output: &Path, etag: String) -> anyhow::Result<Self> {
        let path = folder(output).join(format!("{}{etag}", Self::prefix(output)?));
        File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path,
            etag,
            size: 0,
        })
    }

    fn open(&self) -> anyhow::Result<File> {
        let file = OpenOptions::new().append(true).open(&self.path);
        file.with_context(|| self.path.display().to_string())
    }

    fn prefix(output: &Path) -> anyhow::Result<String> {
        let name = output
            .file_name()
            .ok_or_else(|| Misused(format!("{} names no file", output.display())))?;
        Ok(format!("{}.part-", name.to_string_lossy()))
    }
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

    fn tell(&self, answer: &serde_json::Value) -> anyhow::Result<()> {
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

async fn send(api: &Api, path: &str, source: Source) -> anyhow::Result<serde_json::Value> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/x-tar")
        .body(source.into_body())?;
    let answer = api.send(request).await?;
    api.json(answer).await
}

// === helpers ===

fn get(path: &str) -> http::request::Builder {
    Request::builder().method(Method::GET).uri(path)
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn bar(total: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar
}

/// What an entity tag of a tar looks like.
fn is_tag(text: &str) -> bool {
    (16..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn folder(output: &Path) -> PathBuf {
    match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn sync_folder(output: &Path) -> anyhow::Result<()> {
    let folder = folder(output);
    // Some file systems know no such thing for folders.
    let _ = File::open(&folder)
        .with_context(|| folder.display().to_string())?
        .sync_all();
    Ok(())
}

const BAR: &str = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
/// Bytes of a file that are sent at a time.
const CHUNK: usize = 256 << 10;
/// A request's target has a bound (the `http` crate's, 65534 bytes).
const LONGEST: usize = 60_000;
