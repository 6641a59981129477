//! `pierhead export`: cached images to one file, taken up where it broke off.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use argh::{ArgsInfo, FromArgs};
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};

use super::bar;
use crate::cli::api::{Api, Body, Purpose, quoted};
use crate::cli::words::{bytes, count};
use crate::cli::{Misused, complain, images, run_async};

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

// === impl Export ===

impl Export {
    pub fn run(self) -> anyhow::Result<()> {
        let images = images::named(&self.image, self.list.as_deref())?;
        images::platforms(&self.platform)?;
        let path = self.path(&images)?;
        // A named pipe waits for its reader here, before a gateway or a directory waits for it.
        let target = Target::find(&self.output)?;
        let number = images.len() as u64;
        run_async(async {
            let gateway = self.gateway.as_deref();
            let api = Api::reach(self.config.as_deref(), gateway, Purpose::Use).await?;
            let result = match &target {
                Target::Stdout => pour(&api, &path, io::stdout(), "standard output").await,
                Target::Device(file) => {
                    let name = self.output.display().to_string();
                    let written = pour(&api, &path, file, &name).await;
                    written.and_then(|written| sync(file).context(name).map(|()| written))
                }
                Target::Named(file) => save(&api, &path, file).await,
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

/// Where the tar goes.
enum Target {
    Stdout,
    /// What is there and is no regular file, such as a named pipe or a stick: it stays what it is.
    Device(File),
    /// A file that has this name when it is whole.
    Named(PathBuf),
}

// === impl Target ===

impl Target {
    fn find(output: &Path) -> anyhow::Result<Self> {
        if output == Path::new("-") {
            if io::stdout().is_terminal() {
                return Err(Misused(
                    "a tar is nothing for a terminal: -o FILE, or a pipe".to_owned(),
                )
                .into());
            }
            return Ok(Self::Stdout);
        }
        Part::prefix(output)?;
        let shown = || output.display().to_string();
        match std::fs::metadata(output) {
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new().write(true).open(output);
                Ok(Self::Device(file.with_context(shown)?))
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).with_context(shown),
            _ => Ok(Self::Named(followed(output))),
        }
    }
}

/// Streams the tar to `out`, called `name`; answers its bytes.
async fn pour(api: &Api, path: &str, mut out: impl Write, name: &str) -> anyhow::Result<u64> {
    let answer = api
        .well(api.send(get(path).body(nothing())?).await?)
        .await?;
    let mut body = answer.into_body();
    let mut written = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{} broke off; begin anew", api.name()))?;
        if let Some(data) = frame.data_ref() {
            out.write_all(data).with_context(|| name.to_owned())?;
            written += data.len() as u64;
        }
    }
    out.flush().with_context(|| name.to_owned())?;
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

// === helpers ===

fn get(path: &str) -> http::request::Builder {
    Request::builder().method(Method::GET).uri(path)
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What an entity tag of a tar looks like.
fn is_tag(text: &str) -> bool {
    (16..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a symbolic link leads to, whether that is there or not; a path that is none, as it is. The kernel
/// has followed it before, so that it goes in no circle.
fn followed(output: &Path) -> PathBuf {
    let mut path = output.to_owned();
    while let Ok(next) = std::fs::read_link(&path) {
        path = folder(&path).join(next);
    }
    path
}

/// Waits until a device has what was written to it. A pipe knows no such thing.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
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

/// A request's target has a bound (the `http` crate's, 65534 bytes).
const LONGEST: usize = 60_000;
