//! The key of this machine's own command line: whoever may read the cache directory may change it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A bearer token, new at every start.
pub struct Token(String);

/// Where a running gateway can be talked to, as it noted it in its cache directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// `host:port` of the admin listener.
    pub address: String,
    pub token: String,
}

// === impl Token ===

impl Token {
    pub fn new() -> io::Result<Self> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(random)))
    }

    /// Whether `sent` is this token; takes as long whatever is wrong with it.
    pub fn is(&self, sent: &str) -> bool {
        let mac = |text: &str| {
            let mut mac = <Hmac<Sha256>>::new_from_slice(self.0.as_bytes()).ok()?;
            mac.update(text.as_bytes());
            Some(mac)
        };
        let (Some(own), Some(sent)) = (mac(&self.0), mac(sent)) else {
            return false;
        };
        own.verify_slice(&sent.finalize().into_bytes()).is_ok()
    }

    /// Notes in the cache directory how to reach this gateway. Readable by its owner alone.
    pub fn leave(&self, dir: &Path, address: &str) -> io::Result<()> {
        let path = file(dir);
        // A file of a former process may be somebody's to read.
        let _ = fs::remove_file(&path);
        let opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let line = format!("{address} {}\n", self.0);
        let left = opened.and_then(|mut file| {
            let written = file.write_all(line.as_bytes());
            // Half of it would be taken for another's.
            written.inspect_err(|_| drop(fs::remove_file(&path)))
        });
        left.map_err(|e| {
            let mend = match e.kind() {
                io::ErrorKind::AlreadyExists => "; it could not be replaced: remove it",
                _ => "",
            };
            let path = path.display();
            io::Error::new(e.kind(), format!("cannot write {path}: {e}{mend}"))
        })
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

// === impl Handle ===

impl Handle {
    /// Reads what a gateway noted; `None` where none did.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(file(dir)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok(text.trim().split_once(' ').map(|(address, token)| Self {
            address: address.to_owned(),
            token: token.to_owned(),
        }))
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("admin.token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let token = Token::new().unwrap();
        assert!(token.is(&token.0.clone()));
        assert!(!token.is(""));
        assert!(!token.is("x"));
        assert!(!Token::new().unwrap().is(&token.0));
    }

    #[test]
    fn what_a_gateway_leaves_is_read_by_its_command_line() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Handle::read(dir.path()).unwrap(), None);
        let token = Token::new().unwrap();
        token.leave(dir.path(), "127.0.0.1:3129").unwrap();
        let handle = Handle::read(dir.path()).unwrap().unwrap();
        assert_eq!(handle.address, "127.0.0.1:3129");
        assert!(token.is(&handle.token));
        let mode = fs::metadata(file(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
