//! What one client may have of something at a time, so that there is some left for the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places of which each client has the same number.
#[derive(Debug)]
pub struct Shares {
    each: usize,
    /// By client, and by what it has a place at.
    taken: Mutex<HashMap<(IpAddr, String), Weak<Semaphore>>>,
}

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub struct Share(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// Who `client` is where clients are counted: of IPv6 the first 64 bits, because whoever has one such
/// address has all of its network (RFC 6177).
pub fn who(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

// === impl Shares ===

impl Shares {
    /// `each` places for every client.
    pub fn new(each: usize) -> Self {
        Self {
            each,
            taken: Mutex::default(),
        }
    }

    /// A place of `client`'s, where one is free.
    pub fn take(&self, client: IpAddr) -> Option<Share> {
        self.of(client, "").try_acquire_owned().ok().map(Share)
    }

    /// Waits for a place of `client`'s at `at`, behind those of its own there that came before.
    pub async fn wait(&self, client: IpAddr, at: &str) -> Option<Share> {
        // Never closed: there is one in the end.
        self.of(client, at).acquire_owned().await.ok().map(Share)
    }

    fn of(&self, client: IpAddr, at: &str) -> Arc<Semaphore> {
        let client = (who(client), at.to_owned());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = taken.get(&client).and_then(Weak::upgrade) {
            return places;
        }
        if taken.len() >= SWEEP_AT && taken.len().is_power_of_two() {
            taken.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Semaphore::new(self.each));
        taken.insert(client, Arc::downgrade(&places));
        places
    }
}

const SWEEP_AT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_clients_places_are_not_anothers() {
        let shares = Shares::new(2);
        let held: Vec<_> = (0..2).map(|_| shares.take(ip("10.0.0.1"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(ip("10.0.0.1")).is_none());
        assert!(shares.take(ip("::ffff:10.0.0.1")).is_none());
        assert!(shares.take(ip("10.0.0.2")).is_some());
        drop(held);
        assert!(shares.take(ip("10.0.0.1")).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let shares = Shares::new(1);
        let held = shares.take(ip("2001:db8::1"));
        assert!(held.is_some());
        assert!(shares.take(ip("2001:db8::2:3")).is_none());
        assert!(shares.take(ip("2001:db8:0:1::1")).is_some());
    }
}
