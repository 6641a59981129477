//! A download from its beginning to its end: a task of its own that no client owns.

mod lane;
mod leader;
#[cfg(all(test, feature = "model"))]
mod model;
mod pace;
mod shares;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use tracing::{debug, info, warn};

use self::leader::Leader;
use super::Cache;
use super::flight::{Failure, Flight};
use super::origin::Gone;
use super::space::Reservation;
use super::sync::{JoinError, JoinHandle, spawn_blocking};
use crate::store::{Key, Spool};

impl Cache {
    /// Downloads, verifies, commits; whoever follows `flight` hears of the end in any case.
    pub(super) async fn run_download(self: Arc<Self>, flight: Arc<Flight>) {
        self.metrics.downloads_active.inc();
        self.metrics.live.ring();
        let _end = EndInAnyCase {
            flight: flight.clone(),
            cache: self.clone(),
        };
        let parked = self.space.unpark(flight.digest());
        let resumed = parked.is_some();
        let mut room = parked.unwrap_or_else(|| self.space.reservation());
        let store = self.store.clone();
        let key = Key::blob(flight.digest());
        let opening = blocking(move || store.spool(&key));
        // What nobody has begun is asked for from its first byte on while its file is made.
        let mut first = None;
        let opened = match resumed {
            true => opening.await,
            false => {
                let first = first.insert(Leader::first_lane(&flight, 0));
                first.meanwhile(opening).await
            }
        };
        let result = match opened {
            Err(e) => Err((Failure::NoRoom(e.to_string()), None)),
            Ok(spool) if room.grow(spool.written()).await.is_err() => Err((
                Failure::NoRoom("not even for what an earlier try left".into()),
                Some(spool),
            )),
            Ok(spool) => {
                let found = spool.written();
                room.wrote(found);
                flight.found(found);
                if resumed && found > 0 {
                    info!(digest = %flight.digest(), at = found, "resuming a broken download");
                }
                let first = first.filter(|_| found == 0);
                let first = first.unwrap_or_else(|| Leader::first_lane(&flight, found));
                Leader::new(&flight, &self, &mut room, spool, first)
                    .fetch()
                    .await
            }
        };
        match result {
            Ok(spool) => self.land(&flight, spool, room).await,
            Err((failure, spool)) => {
                match spool {
                    Some(spool) => self.leave(&flight, &failure, spool, room).await,
                    // Its thread is gone, and so is its room in a moment.
                    None => drop(self.store.remove_partial(&Key::blob(flight.digest()))),
                }
                self.fail(&flight, failure);
            }
        }
    }

    async fn land(&self, flight: &Flight, spool: Spool, room: Reservation) {
        let (digest, size) = (flight.digest(), spool.written());
        // The bytes are the blob's, so upstream has shown it in the repository it was asked through, to
        // whoever asked. Who has the last byte may find the blob here after a crash.
        let (began, _) = flight.source(0);
        began.proven().await;
        self.note_member(flight.member().to_vec()).await;
        // Followers may have the rest now; the disk's own business need not hold them up.
        flight.verified(size);
        let key = Key::blob(digest);
        if let Err(e) = self.keep(spool, &key, room, String::new()).await {
            warn!(%digest, error = %e, "a verified blob could not be kept");
        }
        flight.forget_fresh();
        self.end_flight(digest);
        self.metrics.download_ended("verified");
        debug!(%digest, size, "downloaded");
    }

    /// Keeps what a broken download has, for the next try, or drops what is good for none.
    async fn leave(&self, flight: &Flight, failure: &Failure, mut spool: Spool, room: Reservation) {
        let is_good = !matches!(failure, Failure::Mismatch(_) | Failure::NoRoom(_));
        let cut = blocking(move || {
            let cut = spool.drop_ahead();
            if !is_good || cut.is_err() || spool.written() == 0 {
                spool.discard();
                return Ok(None);
            }
            Ok(Some(spool))
        });
        if let Ok(Some(spool)) = cut.await {
            let size = spool.written();
            self.space.park(flight.digest().clone(), room, size);
        }
    }

    fn fail(&self, flight: &Flight, failure: Failure) {
        let digest = flight.digest();
        match &failure {
            Failure::Mismatch(mismatch) => {
                warn!(
                    digest = %mismatch.expected, received = %mismatch.actual, size = mismatch.size,
                    "upstream sent other bytes than the digest says; dropped"
                );
                self.metrics.download_ended("mismatch");
            }
            Failure::NoRoom(why) => {
                warn!(%digest, %why, "the cache cannot hold a blob; it passes through");
                self.metrics.download_ended("no_room");
            }
            Failure::Gone(gone) => {
                warn!(%digest, error = %gone, "a download ended early");
                self.metrics.download_ended("broken");
            }
            Failure::Answer(answer) => {
                debug!(%digest, status = %answer.status(), "upstream refused a blob");
                self.metrics.download_ended("refused");
            }
        }
        // First out of the map, so that whoever is told may begin anew.
        self.end_flight(digest);
        flight.failed(failure);
    }
}

/// Followers must hear of the end even of a download that panicked.
struct EndInAnyCase {
    flight: Arc<Flight>,
    cache: Arc<Cache>,
}

impl Drop for EndInAnyCase {
    fn drop(&mut self) {
        if self.flight.has_ended() {
            return;
        }
        // Its room was given back with it, so nothing of it may stay.
        let _ = self
            .cache
            .store
            .remove_partial(&Key::blob(self.flight.digest()));
        let gone = Gone::broken("the download failed inside the gateway");
        self.cache.fail(&self.flight, Failure::Gone(gone));
    }
}

/// The write under way, or nothing ever.
async fn joined<T>(writing: &mut Option<JoinHandle<T>>) -> Result<T, JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}
