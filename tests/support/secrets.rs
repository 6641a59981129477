//! The search for what a gateway must keep to itself: every password and token of a test, in every
//! spelling, in everything the gateway told or wrote.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use aho_corasick::AhoCorasick;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// The passwords and tokens of a test. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<Mutex<BTreeSet<String>>>);

/// Something that was told, and where.
#[derive(Clone, Debug)]
pub struct Told {
    pub place: String,
    pub text: String,
}

// === impl Secrets ===

impl Secrets {
    /// Adds a user's password: alone, and as it travels beside the user's name.
    pub fn login(&self, user: &str, password: &str) {
        self.add(password);
        // Half a quantum at the end depends on what follows: what is searched for ends before it.
        let pair = STANDARD_NO_PAD.encode(format!("{user}:{password}"));
        self.insert(&pair[..pair.len() / 4 * 4]);
    }

    /// Adds a token, or a password whose user is not known.
    pub fn add(&self, secret: &str) {
        // A short word stands in any log; it is searched for beside its user's name.
        if secret.len() < SHORTEST {
            return;
        }
        for spelling in spellings(secret) {
            self.insert(&spelling);
        }
    }

    /// Adds the secret of an `Authorization` or `Proxy-Authorization` value.
    pub fn authorization(&self, value: &str) {
        let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
        let pair = STANDARD.decode(rest).ok();
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        match pair.as_ref().and_then(|pair| pair.split_once(':')) {
            Some((user, password)) if scheme.eq_ignore_ascii_case("basic") => {
                self.login(user, password);
            }
            _ => self.add(rest),
        }
    }

    /// Adds what a configuration holds: logins in addresses, and the passwords its files name.
    pub fn configuration(&self, toml: &str, dir: &Path) {
        for part in toml.split("://").skip(1) {
            let authority = part.split(['/', '"', ' ']).next().unwrap_or_default();
            let login = authority
                .rsplit_once('@')
                .and_then(|it| it.0.split_once(':'));
            if let Some((user, password)) = login {
                let plain = |text: &str| {
                    let decoded = percent_encoding::percent_decode_str(text);
                    decoded.decode_utf8_lossy().into_owned()
                };
                self.login(&plain(user), &plain(password));
            }
        }
        for part in toml.split("password_file = ").skip(1) {
            let file = part.split('"').nth(1).unwrap_or_default();
            if let Ok(password) = std::fs::read_to_string(dir.join(file)) {
                self.add(password.trim_end());
            }
        }
    }

    /// Where one of them was told, and how it was spelled.
    pub fn found_in<'a>(&self, told: impl IntoIterator<Item = &'a Told>) -> Vec<String> {
        let spelled: Vec<String> = {
            let all = self.0.lock().expect("no panic holds it");
            all.iter().cloned().collect()
        };
        // Thousands are searched for in hundreds of megabytes: all at once.
        let search = AhoCorasick::new(&spelled).expect("they fit into memory");
        let mut found = Vec::new();
        for Told { place, text } in told {
            let mut told_here = BTreeSet::new();
            for at in search.find_overlapping_iter(text) {
                let spelling = &spelled[at.pattern().as_usize()];
                if told_here.insert(spelling) {
                    let start = text.floor_char_boundary(at.start().saturating_sub(80));
                    let end = text.ceil_char_boundary(at.end() + 80);
                    found.push(format!("{spelling} in {place}: …{}…", &text[start..end]));
                }
            }
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().expect("no panic holds it").is_empty()
    }

    fn insert(&self, spelling: &str) {
        if spelling.len() >= SHORTEST {
            let mut all = self.0.lock().expect("no panic holds it");
            all.insert(spelling.to_owned());
        }
    }
}

/// Plain, as JSON and in a URL (with either way to write a blank), in base64 after any other text.
fn spellings(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret).expect("a text is JSON");
    let mut url = String::new();
    for byte in secret.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                url.push(byte.into());
            }
            other => write!(url, "%{other:02X}").expect("a text grows"),
        }
    }
    let mut all = vec![
        secret.to_owned(),
        json.trim_matches('"').to_owned(),
        url.replace("%20", "+"),
        url.to_lowercase(),
        url,
    ];
    for before in 0..3 {
        let text = [&b"\0\0"[..before], secret.as_bytes()].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&text);
            // The first and the last quantum hold something of the neighbours as well.
            let first = if before == 0 { 0 } else { 4 };
            let last = text.len() / 3 * 4;
            all.push(encoded[first.min(last)..last].to_owned());
        }
    }
    all
}

/// What a running gateway shows: its command line, its metrics, its page, and every list of its API.
/// Nothing of a gateway that does not answer.
pub fn shown(pid: u32, admin: SocketAddr) -> Vec<Told> {
    let mut told = Vec::new();
    if let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) {
        told.push(Told {
            place: "the command line".into(),
            text: String::from_utf8_lossy(&line).replace('\0', " "),
        });
    }
    for path in SHOWN {
        let Some(text) = get(admin, path) else { break };
        told.push(Told {
            place: path.to_owned(),
            text,
        });
    }
    told
}

/// What a gateway wrote into its cache directory beside the content: the index, most of all.
pub fn written(cache: &Path) -> Vec<Told> {
    let mut told = Vec::new();
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_file()
            && let Ok(bytes) = std::fs::read(&path)
        {
            told.push(Told {
                place: path.display().to_string(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            });
        }
    }
    told
}

/// A GET, answered within seconds or not at all.
fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&admin, PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Every view of the page, and everything the API answers to a GET without a parameter.
pub const SHOWN: [&str; 15] = [
    "/metrics",
    "/",
    "/images",
    "/live",
    "/registries",
    "/clients",
    "/api/v1/status",
    "/api/v1/registries",
    "/api/v1/images",
    "/api/v1/repositories",
    "/api/v1/pulls",
    "/api/v1/cache",
    "/api/v1/cache/verification",
    "/api/v1/live",
    "/api/v1/history",
];
/// Bytes.
const SHORTEST: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);
