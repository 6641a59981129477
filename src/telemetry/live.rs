//! What goes on at this moment, for a person who looks: denials, tunnels, and a bell for changes.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::access::Line;

/// What goes on now. Nothing of it is written anywhere.
#[derive(Debug)]
pub struct Live {
    /// The latest first.
    denials: Mutex<VecDeque<Denial>>,
    tunnels: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    bell: watch::Sender<u64>,
}

/// Something that was refused, once or many times in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub first: SystemTime,
    pub last: SystemTime,
    pub times: u64,
    pub client: IpAddr,
    pub user: Option<String>,
    pub method: String,
    pub host: String,
    pub repository: String,
    /// The rule that denied it, as a person finds it in the configuration.
    pub rule: String,
    /// One sentence: what denies it.
    pub reason: String,
    /// What to do about it, with the lines of configuration that allow it; several lines, or nothing.
    pub mend: String,
}

/// Bytes that went from the client up and from the target down so far.
#[derive(Debug, Default)]
pub struct Moved {
    pub up: AtomicU64,
    pub down: AtomicU64,
}

/// A tunnel that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelView {
    /// Counts from one since the start; never used twice.
    pub id: u64,
    pub client: IpAddr,
    pub user: Option<String>,
    pub host: String,
    pub since: SystemTime,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
}

/// A tunnel is listed as long as this lives.
#[derive(Debug)]
pub struct Listed {
    live: Arc<Live>,
    id: u64,
    moved: Arc<Moved>,
}

#[derive(Debug)]
struct Entry {
    client: IpAddr,
    user: Option<String>,
    host: String,
    since: SystemTime,
    moved: Arc<Moved>,
}

// === impl Live ===

impl Live {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            denials: Mutex::default(),
            tunnels: Mutex::default(),
            next: AtomicU64::new(1),
            bell: watch::Sender::new(0),
        })
    }

    /// Notes that the request of `line` was denied. The same again only counts.
    pub fn denied(&self, line: &Line, reason: &str, mend: &str) {
        let now = SystemTime::now();
        let (user, host) = (line.user.as_deref().map(short), short(&line.host));
        let mut denials = self.ring_of_denials();
        let same = |denial: &Denial| {
            denial.client == line.client
                && denial.user.as_deref() == user
                && denial.method == line.method.as_str()
                && denial.host == host
                && *denial.repository == *line.repository
                && denial.rule == line.rule
        };
        let mut denial = match denials.iter().position(same) {
            Some(at) => denials.remove(at),
            None => None,
        }
        .unwrap_or_else(|| Denial {
            first: now,
            last: now,
            times: 0,
            client: line.client,
            user: user.map(str::to_owned),
            method: line.method.to_string(),
            host: host.to_owned(),
            repository: line.repository.to_string(),
            rule: line.rule.clone(),
            reason: String::new(),
            mend: String::new(),
        });
        denial.last = now;
        denial.times += 1;
        // The configuration may have changed since the last time, and with it the words.
        denial.reason = reason.to_owned();
        denial.mend = mend.to_owned();
        denials.push_front(denial);
        denials.truncate(MOST_DENIALS);
        drop(denials);
        self.ring();
    }

    /// What was denied lately, the latest first.
    pub fn denials(&self) -> Vec<Denial> {
        self.ring_of_denials().iter().cloned().collect()
    }

    /// Lists a tunnel until the answer is dropped.
    pub fn tunnel(self: &Arc<Self>, client: IpAddr, user: Option<String>, host: String) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let moved = Arc::new(Moved::default());
        let entry = Entry {
            client,
            user,
            host,
            since: SystemTime::now(),
            moved: moved.clone(),
        };
        self.entries().insert(id, Arc::new(entry));
        self.ring();
        Listed {
            live: self.clone(),
            id,
            moved,
        }
    }

    /// The tunnels that are open, the oldest first.
    pub fn tunnels(&self) -> Vec<TunnelView> {
        let entries = self.entries();
        let view = |(id, entry): (&u64, &Arc<Entry>)| TunnelView {
            id: *id,
            client: entry.client,
            user: entry.user.clone(),
            host: entry.host.clone(),
            since: entry.since,
            up: entry.moved.up.load(Ordering::Relaxed),
            down: entry.moved.down.load(Ordering::Relaxed),
        };
        entries.iter().map(view).collect()
    }

    /// Tells whoever watches that something began or ended.
    pub fn ring(&self) {
        self.bell.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// Changes each time something began or ended: a denial, a tunnel, a download. Many changes are
    /// seen as one by a reader that takes its time between two looks, which it should; how far a
    /// download has come rings nothing.
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    fn ring_of_denials(&self) -> MutexGuard<'_, VecDeque<Denial>> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Listed ===

impl Listed {
    /// Where the tunnel counts what it moves.
    pub fn moved(&self) -> &Arc<Moved> {
        &self.moved
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.live.entries().remove(&self.id);
        self.live.ring();
    }
}

/// What a client wrote, no longer than a name can be.
fn short(name: &str) -> &str {
    let end = (0..=name.len().min(LONGEST_NAME)).rfind(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or(0)]
}

const MOST_DENIALS: usize = 200;
/// Bytes.
const LONGEST_NAME: usize = 262;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::super::access::Outcome;
    use super::*;

    #[test]
    fn the_same_denial_again_is_counted_and_comes_first() {
        let live = Live::new();
        live.denied(&line("one.example"), "no rule names it", "add a rule");
        live.denied(&line("two.example"), "no rule names it", "add a rule");
        live.denied(&line("one.example"), "a rule denies it", "change the rule");
        let denials = live.denials();
        let seen: Vec<(&str, u64, &str)> = denials
            .iter()
            .map(|denial| (&*denial.host, denial.times, &*denial.mend))
            .collect();
        assert_eq!(
            seen,
            [
                ("one.example", 2, "change the rule"),
                ("two.example", 1, "add a rule")
            ]
        );
        assert!(denials[0].first <= denials[0].last);
    }

    #[test]
    fn only_so_many_denials_are_remembered() {
        let live = Live::new();
        for n in 0..MOST_DENIALS + 5 {
            live.denied(&line(&format!("{n}.example")), "", "");
        }
        let denials = live.denials();
        assert_eq!(denials.len(), MOST_DENIALS);
        assert_eq!(denials[0].host, format!("{}.example", MOST_DENIALS + 4));
        assert_eq!(denials[MOST_DENIALS - 1].host, "5.example");
    }

    #[test]
    fn a_tunnel_is_listed_with_its_bytes_until_it_ends() {
        let live = Live::new();
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = live.tunnel(client, None, "a.example".into());
        let second = live.tunnel(client, Some("ann".into()), "b.example:8443".into());
        second.moved().up.store(3, Ordering::Relaxed);
        second.moved().down.store(9, Ordering::Relaxed);
        drop(first);
        let open = live.tunnels();
        assert_eq!(open.len(), 1);
        assert_eq!(
            (open[0].id, &*open[0].host, open[0].up, open[0].down),
            (2, "b.example:8443", 3, 9)
        );
        drop(second);
        assert!(live.tunnels().is_empty());
    }

    #[tokio::test]
    async fn the_bell_rings_for_what_begins_and_ends() {
        let live = Live::new();
        let mut bell = live.bell();
        assert!(!bell.has_changed().unwrap());
        let tunnel = live.tunnel(Ipv4Addr::LOCALHOST.into(), None, "a.example".into());
        bell.changed().await.unwrap();
        drop(tunnel);
        bell.changed().await.unwrap();
        live.denied(&line("b.example"), "", "");
        bell.changed().await.unwrap();
        assert!(!bell.has_changed().unwrap());
    }

    fn line(host: &str) -> Line {
        Line {
            client: Ipv4Addr::LOCALHOST.into(),
            user: None,
            method: http::Method::CONNECT,
            host: host.into(),
            registry: Arc::default(),
            repository: Arc::default(),
            reference: Arc::default(),
            status: 403,
            outcome: Outcome::Denied,
            rule: "policy.default".into(),
            started: Instant::now(),
        }
    }
}
