//! What reads bytes that strangers wrote, and what must hold whatever they are.
//!
//! Each function takes any bytes and panics where something does not hold. `cargo fuzz` drives them with
//! coverage (`fuzz_targets/`), and the test beside them with the corpus and chance.

use std::{
    io::Write as _,
    path::Path,
    sync::{Arc, OnceLock},
};

use pierhead::{
    cache::{Cache, CacheConfig, Manifest, space::Bounds},
    config::Config,
    oci::{
        accept::Accept,
        challenge,
        digest::{Algorithm, Digest},
        manifest::{self, Children},
        name::ImageName,
        range::{ByteRange, ContentRange, Wanted},
        reference::{Reference, RepoName, Tag},
        route::Route,
    },
    policy::{AddressGuard, Host, HostPattern, Target},
    store::Key,
    telemetry::metrics::Metrics,
};

/// Parses whatever it is given, and must not panic.
type Run = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const ALL: [(&str, Run); 9] = [
    ("route", route),
    ("range", range),
    ("challenge", challenge),
    ("reference", reference),
    ("accept", accept),
    ("host", host),
    ("manifest", manifest),
    ("config", config),
    ("index", index),
];

/// The path of a request: what it is read as is what upstream is asked for.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(route) = Route::parse(text) else {
        return;
    };
    if let Some(path) = route.path() {
        assert_eq!(Route::parse(&path).ok(), Some(route.clone()), "{path}");
        assert!(!path.contains("/../") && !path.contains("//"), "{path}");
    }
    if let Some(repo) = route.repo() {
        let parts = repo.as_str().split('/');
        for part in parts {
            assert!(!part.is_empty() && part != "." && part != "..", "{repo}");
        }
    }
}

/// `Range` against a length, and `Content-Range`.
pub fn range(data: &[u8]) {
    let Some((len, text)) = data.split_at_checked(8) else {
        return;
    };
    // The length is an int64 in the specification.
    let len = u64::from_le_bytes(len.try_into().expect("eight bytes")) >> 1;
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let wanted = Wanted::parse(Some(text), len);
    if let Wanted::Partial { start, end } = wanted {
        assert!(
            start <= end && end < len,
            "{text:?} of {len}: {start}-{end}"
        );
        assert!(wanted.length(len) >= 1);
        let said = wanted.content_range(len).expect("a part").to_string();
        assert!(ContentRange::parse(&said).is_some(), "{said}");
    }
    if let Some(range) = ByteRange::parse(text) {
        assert_eq!(ByteRange::parse(&range.to_string()), Some(range));
    }
    if let Some(range) = ContentRange::parse(text) {
        assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
    }
}

/// `WWW-Authenticate`, over several lines.
pub fn challenge(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let found = challenge::parse_all(text.lines());
    assert!(found.len() <= text.len(), "more challenges than bytes");
}

/// Names, tags, digests and references: what is read is written the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(repo) = text.parse::<RepoName>() {
        assert_eq!(repo.as_str(), text);
        assert!(text.len() <= 255);
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(text.len() <= 128);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.as_str(), text);
        let again = Digest::from_raw(digest.algorithm(), &digest.raw());
        assert_eq!(again.as_ref(), Some(&digest));
        let key = Key::blob(&digest);
        assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.as_str(), text);
    }
    if let Ok(image) = text.parse::<ImageName>() {
        let said = image.to_string();
        assert_eq!(
            said.parse::<ImageName>().map(|one| one.to_string()).ok(),
            Some(said)
        );
    }
    let _ = Key::from_bytes(data);
}

/// `Accept`, over several lines: what upstream is told means the same.
pub fn accept(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let accept = Accept::from_headers(text.lines());
    if let Some(said) = accept.to_header() {
        let again = Accept::from_headers(std::iter::once(said.as_str()));
        assert_eq!(again.key(), accept.key(), "{said}");
        for media_type in manifest::MANIFEST_TYPES {
            assert_eq!(
                again.allows(media_type),
                accept.allows(media_type),
                "{media_type}"
            );
        }
    }
}

/// What a client wants to be connected to, and the patterns it is compared with.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(host) = text.parse::<Host>() {
        assert_eq!(host.to_string().parse::<Host>().ok().as_ref(), Some(&host));
        if let Some(ip) = host.ip() {
            let _ = AddressGuard::default().check(ip);
        }
    }
    if let Ok(target) = text.parse::<Target>() {
        assert_ne!(target.port, 0);
        assert_eq!(target.to_string().parse::<Target>().ok(), Some(target));
    }
    if let Ok(pattern) = text.parse::<HostPattern>() {
        let said = pattern.to_string();
        assert_eq!(said.parse::<HostPattern>().ok(), Some(pattern), "{said}");
    }
}

/// A manifest or an index.
pub fn manifest(data: &[u8]) {
    let children = Children::parse(data);
    for child in children.iter() {
        let _ = (child.is_foreign(), child.digest.as_str());
    }
    if let Some(media_type) = manifest::sniff(data) {
        assert!(manifest::is_media_type(&media_type), "{media_type:?}");
    }
}

/// `pierhead.toml`.
pub fn config(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("written");
    if let Err(error) = Config::load(Some(file.path()), std::iter::empty()) {
        assert!(!error.to_string().is_empty());
    }
}

/// The index file, damaged in places: five bytes each, where and what. The cache opens, and takes and
/// gives what it is for.
pub fn index(data: &[u8]) {
    static WELL: OnceLock<Vec<u8>> = OnceLock::new();
    let mut file = WELL.get_or_init(well).clone();
    for damage in data.chunks_exact(5) {
        let at = u32::from_le_bytes(damage[..4].try_into().expect("four bytes")) as usize;
        let at = at % file.len();
        file[at] = damage[4];
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join(FILE), &file).expect("written");
    runtime().block_on(async {
        let cache = open(dir.path());
        cache.settle().await;
        let _ = (
            cache.used_of(),
            cache.index().tag("tag"),
            cache.index().member(b"member"),
        );
        let kept = sample(99);
        cache.keep_manifest(&kept).await;
        if let Some(found) = cache.manifest(&kept.digest).await {
            assert_eq!(found.bytes, kept.bytes);
        }
    });
}

const FILE: &str = "index.redb";

fn sample(number: usize) -> Manifest {
    let bytes = format!(r#"{{"schemaVersion":2,"mediaType":"{TYPE}","number":{number}}}"#);
    Manifest {
        digest: Digest::of(Algorithm::Sha256, bytes.as_bytes()),
        media_type: TYPE.into(),
        bytes: bytes.into(),
    }
}

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn open(dir: &Path) -> Arc<Cache> {
    let config = CacheConfig {
        dir: dir.to_owned(),
        bounds: Bounds {
            max_size: 1 << 30,
            min_free: 0,
        },
        parallel: 1,
    };
    Cache::open(&config, Arc::new(Metrics::new())).expect("it opens, however the index is")
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    })
}

/// The bytes of an index that knows some objects.
fn well() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    runtime().block_on(async {
        let cache = open(dir.path());
        for number in 0..30 {
            cache.keep_manifest(&sample(number)).await;
        }
        cache.index().set_member(b"member".to_vec()).await;
        let _ = cache.index().flush().await;
    });
    std::fs::read(dir.path().join(FILE)).expect("an index")
}
