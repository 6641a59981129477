//! NAME and PASSWORD → user: who may use the proxy at all (`policy.users_file`).
//!
//! A password is hashed once; after that a keyed hash of it is remembered for minutes, because
//! container clients open a connection, and so send the password, for every request.

mod htpasswd;

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use sha2::Sha256;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use self::htpasswd::Table;
pub use self::htpasswd::UsersError;
use crate::telemetry::metrics::Metrics;
use crate::wire::shares::Shares;

/// The users of the proxy, or nobody in particular.
pub struct Users {
    /// `None`: nobody is asked.
    file: Option<File>,
    /// Of this process: what is remembered is of no use to another.
    secret: [u8; 32],
    remembered: moka::future::Cache<[u8; 32], ()>,
    /// Hashing takes a core for a while: a flood of wrong passwords must leave the others alone.
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
    /// Of one client.
    waiting_of: Shares,
    metrics: Arc<Metrics>,
}

/// Why a caller is nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It sent no credentials.
    Missing,
    /// What it sent is not right; `user` only where the file knows that name, because people type
    /// passwords into the wrong field.
    Wrong { user: Option<String> },
    /// Too many passwords, or too many of this client's, are being checked at this moment.
    Busy,
}

struct File {
    /// Who names it in the configuration.
    key: &'static str,
    path: PathBuf,
    table: ArcSwap<Table>,
    stamp: Stamp,
}

/// A users file that was read and can be used.
pub struct Fresh(Table);

/// What changes when a file does.
type Stamp = Option<(i64, i64, u64, u64)>;

// === impl Users ===

impl Users {
    /// Reads `path`, which `key` of the configuration names; without one nobody is asked.
    pub fn open(
        key: &'static str,
        path: Option<&Path>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, UsersError> {
        let file = path.map(|path| File::open(key, path)).transpose()?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(UsersError::Random)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            file,
            secret,
            remembered: moka::future::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            hashing: Arc::new(Semaphore::new((cores / 2).clamp(1, 8))),
            waiting: Semaphore::new(WAITING),
            waiting_of: Shares::new(WAITING_OF_ONE),
            metrics,
        })
    }

    /// Whether callers must say who they are.
    pub fn asked(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the file has this user.
    pub fn knows(&self, user: &str) -> bool {
        self.file
            .as_ref()
            .is_some_and(|file| file.table.load().hash(user).is_some())
    }

    /// The user that `Basic` credentials (of `Proxy-Authorization` or `Authorization`) of `client`
    /// prove; `None` where nobody is asked.
    pub async fn verify(
        &self,
        client: IpAddr,
        authorization: Option<&HeaderValue>,
    ) -> Result<Option<String>, Denied> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let sent = authorization.ok_or(Denied::Missing)?;
        let (name, password) = basic(sent).ok_or(Denied::Wrong { user: None })?;
        let table = file.table.load_full();
        let known = table.hash(&name);
        let hash = match known {
            Some(hash) => hash.to_owned(),
            // An unknown name takes as long as a known one.
            None => table.dummy(self.choice(&name)),
        };
        let wrong = Denied::Wrong {
            user: known.map(|_| name.clone()),
        };
        let known = known.is_some();
        // Those who come with the same password at the same time wait for one check.
        let checked = self
            .remembered
            .try_get_with(self.key(&name, &password, &hash), async {
                match self.check(client, password, hash).await? && known {
                    true => Ok(()),
                    false => Err(wrong),
                }
            })
            .await;
        match checked {
            Ok(()) => Ok(Some(name)),
            Err(denied) => Err(Denied::clone(&denied)),
        }
    }

    /// The file of these users; `None` where nobody is asked.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Reads the file again, for [`Users::take`]. `None` where there is none.
    pub fn read_again(&self) -> Result<Option<Fresh>, UsersError> {
        let read = |file: &File| Table::read(file.key, &file.path).map(Fresh);
        self.file.as_ref().map(read).transpose()
    }

    /// These are the users from here on.
    pub fn take(&self, fresh: Fresh) {
        if let Some(file) = &self.file {
            file.table.store(Arc::new(fresh.0));
        }
    }

    /// Reads the file again whenever it changes. A file that cannot be used leaves the users as
    /// they are.
    pub async fn follow(self: Arc<Self>) {
        let Some(file) = &self.file else { return };
        let mut seen = file.stamp;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (key, path) = (file.key, file.path.clone());
            let before = seen;
            let looked = tokio::task::spawn_blocking(move || {
                let now = stamp(&path);
                (now != before).then(|| (now, Table::read(key, &path)))
            });
            let Ok(Some((now, read))) = looked.await else {
                continue;
            };
            seen = now;
            match read {
                Ok(table) => {
                    let users = table.len();
                    file.table.store(Arc::new(table));
                    info!(file = %file.path.display(), users, "the users file changed and was read again");
                }
                Err(e) => {
                    warn!(error = %e, "the users file changed and cannot be used; the users stay as they were");
                }
            }
        }
    }

    async fn check(&self, client: IpAddr, password: Vec<u8>, hash: String) -> Result<bool, Denied> {
        let place = self.waiting_of.take(client);
        let Some(_waiting) = place.zip(self.waiting.try_acquire().ok()) else {
            self.metrics.password_checked("busy");
            return Err(Denied::Busy);
        };
        let turn = Arc::clone(&self.hashing).acquire_owned().await;
        let checked = tokio::task::spawn_blocking(move || {
            // Held until the hash is done, also when the caller has gone.
            let _turn = turn;
            bcrypt::verify(password, &hash).unwrap_or(false)
        });
        let right = checked.await.unwrap_or(false);
        self.metrics
            .password_checked(if right { "right" } else { "wrong" });
        Ok(right)
    }

    /// The hash is part of it: a user whose password changed or who left is forgotten with it.
    fn key(&self, name: &str, password: &[u8], hash: &str) -> [u8; 32] {
        let mut mac = self.mac();
        for part in [name.as_bytes(), hash.as_bytes(), password] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The same for a name each time, and not to be foreseen.
    fn choice(&self, name: &str) -> u64 {
        let mut mac = self.mac();
        mac.update(name.as_bytes());
        let bytes: [u8; 32] = mac.finalize().into_bytes().into();
        bytes
            .iter()
            .take(8)
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn mac(&self) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&self.secret).unwrap_or_else(|e| panic!("an HMAC key: {e}"))
    }
}

// === impl Fresh ===

impl Fresh {
    /// Whether the file has this user.
    pub fn knows(&self, user: &str) -> bool {
        self.0.hash(user).is_some()
    }
}

// Hashes and the secret stay inside.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.file.as_ref().map(|file| &file.path);
        f.debug_struct("Users")
            .field("file", &path)
            .finish_non_exhaustive()
    }
}

// === impl File ===

impl File {
    fn open(key: &'static str, path: &Path) -> Result<Self, UsersError> {
        // Before the reading: a change in between is seen as one.
        let stamp = stamp(path);
        Ok(Self {
            key,
            path: path.to_owned(),
            table: ArcSwap::from_pointee(Table::read(key, path)?),
            stamp,
        })
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino()))
}

/// RFC 7617: the name ends at the first colon. Passwords are bytes.
fn basic(value: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.to_str().ok()?.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut pair = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair.split_off(colon + 1);
    pair.truncate(colon);
    Some((String::from_utf8(pair).ok()?, password))
}

/// The keys of the configuration that name a file of users.
pub const PROXY: &str = "policy.users_file";
pub const ADMIN: &str = "admin.users_file";
const REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Checks that may wait for their turn; those beyond are told to come back.
const WAITING: usize = 64;
/// Of these, one client's: who guesses leaves places to the others.
const WAITING_OF_ONE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn users(pairs: &[(&str, &str)]) -> (Users, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), pairs);
        let file = dir.path().join("htpasswd");
        let users = Users::open(PROXY, Some(&file), Arc::default()).unwrap();
        (users, dir)
    }

    fn write(dir: &Path, pairs: &[(&str, &str)]) {
        let line = |(name, password): &(&str, &str)| {
            format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
        };
        let text: String = pairs.iter().map(line).collect();
        std::fs::write(dir.join("htpasswd"), text).unwrap();
    }

    fn sent(pair: &str) -> HeaderValue {
        format!("Basic {}", BASE64_STANDARD.encode(pair))
            .parse()
            .unwrap()
    }

    async fn of(users: &Users, pair: &str) -> Result<Option<String>, Denied> {
        users.verify(CLIENT, Some(&sent(pair))).await
    }

    fn checks(users: &Users, result: &str) -> usize {
        let text = users.metrics.encode();
        let start = format!("pierhead_password_checks_total{{result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().unwrap())
    }

    #[tokio::test]
    async fn without_a_file_nobody_is_asked() {
        let users = Users::open(PROXY, None, Arc::default()).unwrap();
        assert!(!users.asked());
        assert_eq!(users.verify(CLIENT, None).await, Ok(None));
        assert_eq!(of(&users, "a:b").await, Ok(None));
    }

    #[tokio::test]
    async fn the_right_password_is_hashed_once() {
        let (users, _dir) = users(&[("ci", "pass:word"), ("other", "x")]);
        for _ in 0..3 {
            let user = of(&users, "ci:pass:word").await;
            assert_eq!(user, Ok(Some("ci".into())));
        }
        assert_eq!(checks(&users, "right"), 1);
        assert!(of(&users, "other:x").await.is_ok());
        assert_eq!(checks(&users, "right"), 2);
    }

    #[tokio::test]
    async fn who_guesses_takes_no_place_from_another() {
        let (users, _dir) = users(&[("ci", "p"), ("other", "q")]);
        let guesses: Vec<String> = (0..200).map(|n| format!("ci:{n}")).collect();
        let guessing = futures_util::future::join_all(guesses.iter().map(|pair| of(&users, pair)));
        let other = sent("other:q");
        let another = users.verify([10, 0, 0, 2].into(), Some(&other));
        let (guessed, right) = tokio::join!(guessing, another);
        assert_eq!(right, Ok(Some("other".into())));
        let busy = guessed.iter().filter(|said| **said == Err(Denied::Busy));
        assert_eq!(busy.count(), 200 - WAITING_OF_ONE);
    }

    #[tokio::test]
    async fn many_at_once_wait_for_one_check() {
        let (users, _dir) = users(&[("ci", "p")]);
        let sent = sent("ci:p");
        let all = (0..100).map(|_| users.verify(CLIENT, Some(&sent)));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(checks(&users, "right"), 1);
    }

    #[tokio::test]
    async fn what_is_wrong_is_refused_each_time_and_names_known_users_only() {
        let (users, _dir) = users(&[("ci", "right")]);
        let wrong = |user: Option<&str>| {
            Err(Denied::Wrong {
                user: user.map(str::to_owned),
            })
        };
        assert_eq!(users.verify(CLIENT, None).await, Err(Denied::Missing));
        for _ in 0..2 {
            assert_eq!(of(&users, "ci:no").await, wrong(Some("ci")));
        }
        assert_eq!(of(&users, "ci:").await, wrong(Some("ci")));
        assert_eq!(of(&users, "my-password:").await, wrong(None));
        assert_eq!(checks(&users, "wrong"), 4, "an unknown user costs a check");
        for odd in [
            "Bearer x",
            "Basic",
            "Basic !!!",
            "Basic bm9jb2xvbg==",
            "Basic /zp4",
        ] {
            let odd = HeaderValue::from_static(odd);
            assert_eq!(
                users.verify(CLIENT, Some(&odd)).await,
                wrong(None),
                "{odd:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_flood_is_told_to_come_back_while_those_remembered_go_on() {
        let (users, _dir) = users(&[("ci", "right")]);
        let right = sent("ci:right");
        assert!(users.verify(CLIENT, Some(&right)).await.is_ok());
        let _full = users.waiting.acquire_many(WAITING as u32).await.unwrap();
        assert_eq!(of(&users, "ci:wrong").await, Err(Denied::Busy));
        assert!(users.verify(CLIENT, Some(&right)).await.is_ok());
    }

    #[tokio::test]
    async fn a_changed_file_counts_and_a_bad_one_does_not() {
        let (users, dir) = users(&[("ci", "old"), ("kept", "same")]);
        let users = Arc::new(users);
        let (old, new, kept) = (sent("ci:old"), sent("ci:new"), sent("kept:same"));
        assert!(users.verify(CLIENT, Some(&old)).await.is_ok());
        tokio::time::pause();
        tokio::spawn(users.clone().follow());
        std::fs::write(dir.path().join("htpasswd"), "ci:plain\n").unwrap();
        for _ in 0..5 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(users.verify(CLIENT, Some(&old)).await.is_ok());
        write(dir.path(), &[("ci", "new"), ("kept", "same")]);
        while users.verify(CLIENT, Some(&new)).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        assert!(users.verify(CLIENT, Some(&old)).await.is_err());
        assert!(users.verify(CLIENT, Some(&kept)).await.is_ok());
    }

    #[test]
    fn neither_hashes_nor_secrets_are_shown() {
        let (users, _dir) = users(&[("ci", "p")]);
        let shown = format!("{users:?}");
        assert!(
            !shown.contains("$2") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
