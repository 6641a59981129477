//! The one who fetches and writes: over one connection, or several where that one is slow.
//!
//! A download begins with one request for everything. Where that turns out to be what the rest would
//! wait for ([`Pace`]), other connections fetch parts further on, while the first runs on to where they
//! began. Each part is resumed by itself. All bytes go through the one [`Spool`], which counts and hashes
//! them in the blob's order; followers see that much. An upstream that answers a range with anything
//! else is read as one whole again.

use std::io;
use std::mem;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::debug;

use super::joined;
use super::lane::{self, Came, Lane};
use super::pace::{LARGE, Pace};
use super::shares::Shares;
use crate::cache::Cache;
use crate::cache::flight::{Failure, Flight};
use crate::cache::origin::{Backoff, FetchError, Fetched, Gone, retry_after};
use crate::cache::space::Reservation;
use crate::cache::sync::{JoinError, JoinHandle, spawn_blocking, yield_now};
use crate::store::Spool;

pub(super) struct Leader<'a> {
    flight: &'a Flight,
    cache: &'a Cache,
    room: &'a mut Reservation,
    lanes: Vec<Lane>,
    /// The lane that is looked at first, next time.
    first: usize,
    /// What no lane has begun.
    shares: Shares,
    /// Connections at a time.
    most: usize,
    /// Bytes of the whole, where upstream says so.
    total: Option<u64>,
    /// While there is one connection, and much to come.
    pace: Option<Pace>,
    /// There was never more than one: what comes goes on where the last bytes ended.
    straight: bool,
    /// Bytes that wait for the disk, each chunk with its offset.
    queue: Vec<(u64, Bytes)>,
    queued: usize,
    /// Here, or with [`Leader::writing`].
    spool: Option<Spool>,
    writing: Option<JoinHandle<(Spool, io::Result<()>)>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and the spool moves anyway"
)]
enum Event {
    Wrote(Result<(Spool, io::Result<()>), JoinError>),
    Lane(usize, Came),
    /// A moment to judge the pace, and when that was due.
    Tick(Instant),
}

// === impl Leader ===

impl<'a> Leader<'a> {
    /// Goes on behind what `spool` has; `first` asks for that.
    pub fn new(
        flight: &'a Flight,
        cache: &'a Cache,
        room: &'a mut Reservation,
        spool: Spool,
        first: Lane,
    ) -> Self {
        Self {
            lanes: vec![first],
            first: 0,
            shares: Shares::default(),
            most: cache.connections_per_blob(),
            total: None,
            pace: None,
            straight: true,
            queue: Vec::new(),
            queued: 0,
            spool: Some(spool),
            writing: None,
            flight,
            cache,
            room,
        }
    }

    /// Asks for everything from `at` on.
    pub fn first_lane(flight: &Flight, at: u64) -> Lane {
        let (source, _) = flight.source(0);
        Lane::open(at, Backoff::new(BEFORE_THE_HEAD), source)
    }

    /// Fetches until the whole blob is in the spool and verified.
    pub async fn fetch(mut self) -> Result<Spool, (Failure, Option<Spool>)> {
        let result = self.fetch_all().await;
        let Some(spool) = self.at_rest().await else {
            let lost = Failure::NoRoom("the disk's thread ended".into());
            return Err((result.err().unwrap_or(lost), None));
        };
        match result {
            Err(failure) => Err((failure, Some(spool))),
            Ok(()) => match spool.verify() {
                Ok(()) => Ok(spool),
                Err(mismatch) => Err((Failure::Mismatch(mismatch), Some(spool))),
            },
        }
    }

    async fn fetch_all(&mut self) -> Result<(), Failure> {
        loop {
            self.write_on();
            if self.lanes.is_empty() && self.writing.is_none() {
                return Ok(());
            }
            let event = self.event().await;
            match event {
                Event::Wrote(done) => self.wrote(done)?,
                Event::Tick(due) => self.judge(due),
                Event::Lane(at, came) => {
                    self.first = at + 1;
                    match came {
                        Came::Answer(Ok(fetched)) => self.answered(at, fetched).await?,
                        Came::Answer(Err(FetchError::PastTheEnd { total })) => {
                            self.past_the_end(at, total).await?;
                        }
                        Came::Answer(Err(error)) => self.try_again(at, error).await?,
                        Came::Bytes(data) => self.received(at, data).await?,
                        Came::End => self.ended(at).await?,
                        Came::Broke(gone) => self.try_again(at, gone.into()).await?,
                        Came::Rested => self.ask(at),
                    }
                }
            }
        }
    }

    async fn event(&mut self) -> Event {
        let takes = self.queued < QUEUE && !self.lanes.is_empty();
        let since = self.pace.is_some().then(Instant::now);
        if let (Some(pace), false) = (&mut self.pace, takes) {
            pace.held_up();
        }
        let tick = async {
            match &mut self.pace {
                Some(pace) => pace.tick().await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            done = joined(&mut self.writing) => {
                self.writing = None;
                Event::Wrote(done)
            }
            (at, came) = lane::next(&mut self.lanes, self.first), if takes => Event::Lane(at, came),
            due = tick => Event::Tick(due),
        };
        if let (Some(pace), Some(since)) = (&mut self.pace, since.filter(|_| takes)) {
            pace.waited(since.elapsed());
        }
        event
    }

    // --- what comes ---

    /// Upstream has answered a lane with bytes.
    async fn answered(&mut self, at: usize, fetched: Fetched) -> Result<(), Failure> {
        let headed = self.flight.is_headed();
        if !headed {
            self.lanes[at].patience = Backoff::new(AFTER_THE_HEAD);
        }
        if let (Some(known), Some(total)) = (self.total, fetched.total)
            && known != total
        {
            let why = format!("upstream said {known} bytes first and {total} now");
            return self.try_again(at, Gone::broken(why).into()).await;
        }
        let lane = &self.lanes[at];
        if !lane.open && fetched.start != lane.at {
            if fetched.start == 0 {
                debug!(digest = %self.flight.digest(), "upstream gives no ranges; the blob is read as a whole");
                return self.read_as_whole().await;
            }
            let why = "upstream answered with another part than was asked for";
            return self.try_again(at, Gone::broken(why).into()).await;
        }
        if fetched.start > lane.at {
            let why = Gone::broken("upstream left bytes out");
            return self.try_again(at, why.into()).await;
        }
        if !headed && fetched.start < lane.at {
            // What an earlier try left was another caller's. Only who is given the very part that is
            // missing is known to be shown the rest.
            self.start_over(at).await?;
            if fetched.start > 0 {
                let why = "upstream answered with another part than was asked for";
                return self.try_again(at, Gone::broken(why).into()).await;
            }
        }
        let total = fetched.total.or(self.total);
        let here = self.lanes[at].at;
        if !headed && total.is_some_and(|total| total < here) {
            // What an earlier try left is longer than the blob: it is none of it.
            self.start_over(at).await?;
            if fetched.start > 0 {
                let why = Gone::broken("what was left is none of it");
                return self.try_again(at, why.into()).await;
            }
        }
        let here = self.lanes[at].at;
        let wanted = total.unwrap_or(here + UNKNOWN_STEP);
        let grown = self.room.grow(wanted).await;
        grown.map_err(|e| Failure::NoRoom(e.to_string()))?;
        if !headed {
            self.flush().await?;
            if let Some(spool) = &self.spool {
                self.room.wrote(spool.held());
                self.flight.head_is(spool, total);
            }
        } else if self.total != total {
            self.flight.total_is(total);
        }
        self.total = total;
        self.lanes[at].read(fetched.start, fetched.body);
        let large = total.is_some_and(|total| total.saturating_sub(here) >= LARGE);
        if self.most > 1 && self.lanes.len() == 1 && self.lanes[at].open && large {
            self.pace = Some(Pace::begin());
        }
        Ok(())
    }

    async fn received(&mut self, at: usize, data: Bytes) -> Result<(), Failure> {
        self.cache.metrics.received(data.len() as u64);
        let mut reads_on = Some((at, data));
        while let Some((at, data)) = reads_on.take() {
            let lane = &mut self.lanes[at];
            let offset = lane.at;
            let (data, beyond) = lane.take(data);
            let (here, is_full) = (lane.at, lane.end == Some(lane.at));
            if self.total.is_some_and(|total| here > total) {
                return Err(self.too_long().await);
            }
            if self.total.is_none() && here > self.room.bytes() {
                let grown = self.room.grow(here + UNKNOWN_STEP).await;
                grown.map_err(|e| Failure::NoRoom(e.to_string()))?;
            }
            if !data.is_empty() {
                self.queued += data.len();
                self.queue.push((offset, data.clone()));
                if self.straight && self.flight.came(offset, data) {
                    // Whoever waits for these takes them before more is fetched, and before the disk's
                    // thread asks for a turn as well.
                    yield_now().await;
                }
            }
            if is_full {
                let goes_on = self.next_part(at).filter(|_| !beyond.is_empty());
                reads_on = goes_on.map(|at| (at, beyond));
            }
        }
        Ok(())
    }

    /// Upstream sends more than it announced: none of it can be right, so none of it is kept.
    async fn too_long(&mut self) -> Failure {
        if let Some(mut spool) = self.at_rest().await {
            let emptied = spool.restart();
            self.spool = emptied.is_ok().then_some(spool);
        }
        let total = self.total.unwrap_or_default();
        let why = format!("upstream sent more than the {total} bytes it announced");
        Failure::Gone(Gone::for_good(why))
    }

    /// A body is over.
    async fn ended(&mut self, at: usize) -> Result<(), Failure> {
        let lane = &self.lanes[at];
        if lane.end.or(self.total).is_some_and(|end| lane.at < end) {
            let why = Gone::broken("upstream closed before the end");
            return self.try_again(at, why.into()).await;
        }
        let _ = self.next_part(at);
        Ok(())
    }

    /// There are no bytes where a lane asked for some (416).
    async fn past_the_end(&mut self, at: usize, total: Option<u64>) -> Result<(), Failure> {
        let nothing = |at| Gone::for_good(format!("upstream has no byte {at} of it any more"));
        if self.lanes.len() > 1 || !self.lanes[at].open {
            let why = nothing(self.lanes[at].at);
            return self.try_again(at, why.into()).await;
        }
        self.flush().await?;
        let Some(spool) = &self.spool else {
            return Ok(());
        };
        // All bytes are here already, or none of them belong.
        let written = spool.written();
        if total.is_none_or(|total| total == written) && spool.verify().is_ok() {
            self.flight.head_is(spool, Some(written));
            self.lanes.clear();
            return Ok(());
        }
        if self.flight.is_headed() || written == 0 {
            return Err(Failure::Gone(nothing(written)));
        }
        self.start_over(at).await?;
        self.ask(at);
        Ok(())
    }

    // --- lanes ---

    fn ask(&mut self, at: usize) {
        let (source, _) = self.flight.source(self.lanes[at].turn);
        self.lanes[at].ask(source);
    }

    /// A lane met `error`: it is asked again, a while later or in another's name, until its patience is
    /// spent. Then the others take its part over; the last one's end is the download's.
    async fn try_again(&mut self, at: usize, error: FetchError) -> Result<(), Failure> {
        let (_, sources) = self.flight.source(0);
        let lane = &mut self.lanes[at];
        if lane.has_come_on() {
            lane.patience.progress();
            lane.refused = 0;
        }
        if !error.may_pass() {
            // Another follower's credentials, or the gateway's own, may still be good; but the answer
            // to the first question is the first caller's own.
            lane.turn += 1;
            lane.refused += 1;
            if self.flight.is_headed() && lane.refused < sources {
                self.ask(at);
                return Ok(());
            }
        } else if let Some(wait) = lane.patience.wait() {
            debug!(digest = %self.flight.digest(), at = lane.at, ?wait, why = %error, "trying again");
            self.cache.metrics.resumes.inc();
            lane.rest(wait.max(retry_after(&error)));
            return Ok(());
        }
        if self.lanes.len() > 1 {
            debug!(digest = %self.flight.digest(), at = self.lanes[at].at, why = %error, "one connection less");
            let lane = self.lanes.remove(at);
            self.most = self.lanes.len();
            if let Some(end) = lane.end {
                self.shares.give_back(lane.at..end);
            }
            return Ok(());
        }
        if !self.lanes[at].open {
            // Upstream may still give the whole where it gives no part.
            return self.read_as_whole().await;
        }
        Err(error.into())
    }

    /// A lane has all of its part, and goes on with another, if there is one. Answers which lane it is
    /// by then, if it reads on where it is.
    fn next_part(&mut self, at: usize) -> Option<usize> {
        let lane = &self.lanes[at];
        let (here, lanes) = (lane.at, self.lanes.len());
        if lane.open && lane.is_reading() && lane.end.is_some() {
            // Its request goes on to the blob's end, and so may it, until it meets bytes that are here.
            if let Some(share) = self.shares.take_at(here, lanes) {
                self.lanes[at].end = Some(share.end);
                return Some(at);
            }
            let late = |lane: &Lane| lane.at == here && !lane.is_reading();
            if let Some(other) = self.lanes.iter().position(late) {
                self.lanes[at].end = self.lanes[other].end;
                self.aim(other);
                return self.lanes.iter().position(|lane| lane.open);
            }
        }
        self.aim(at);
        None
    }

    /// Gives a lane the next part that is free; without one it ends.
    fn aim(&mut self, at: usize) {
        match self.shares.take(self.lanes.len()) {
            Some(share) => {
                let (source, _) = self.flight.source(self.lanes[at].turn);
                self.lanes[at].aim(share.start, share.end, source);
            }
            None => drop(self.lanes.remove(at)),
        }
    }

    /// Decides whether one connection is too slow for what is left.
    fn judge(&mut self, due: Instant) {
        let (Some(pace), Some(total), [lane]) = (&mut self.pace, self.total, &mut self.lanes[..])
        else {
            return;
        };
        let Some(rate) = pace.judge(due, lane.at, total) else {
            return;
        };
        // Nobody waits for what is only fetched ahead of time.
        if !lane.is_reading() || !self.flight.is_followed() {
            return;
        }
        let mut shares = Shares::of(lane.at..total, rate);
        let Some(own) = shares.take(self.most) else {
            return;
        };
        for turn in 1..self.most {
            let Some(permit) = self.cache.one_more_connection() else {
                break;
            };
            let Some(share) = shares.take(self.most) else {
                break;
            };
            let (source, _) = self.flight.source(0);
            let patience = Backoff::new(FOR_A_PART);
            let part = Lane::part(share.start, share.end, patience, source, permit);
            self.lanes.push(part);
            debug!(digest = %self.flight.digest(), rate, turn, start = share.start, end = share.end, "one more connection");
        }
        if self.lanes.len() > 1 {
            self.lanes[0].end = Some(own.end);
            self.shares = shares;
            self.pace = None;
            // Two may bring the same bytes from here on, and those that are hashed are the ones that
            // count: followers read the file.
            self.straight = false;
            self.cache.metrics.splits.inc();
        }
    }

    /// One lane for everything again. The one that reads so already goes on; else the download does
    /// where its first gap is.
    async fn read_as_whole(&mut self) -> Result<(), Failure> {
        self.most = 1;
        self.shares = Shares::default();
        self.pace = None;
        let whole = |lane: &Lane| lane.open && lane.is_reading();
        if let Some(at) = self.lanes.iter().position(whole) {
            let mut lane = self.lanes.swap_remove(at);
            lane.end = None;
            self.lanes = vec![lane];
            return Ok(());
        }
        self.flush().await?;
        let Some(mut spool) = self.spool.take() else {
            return Ok(());
        };
        let (spool, cut) = rested(move || {
            let cut = spool.drop_ahead();
            (spool, cut)
        })
        .await?;
        let written = spool.written();
        self.spool = Some(spool);
        cut.map_err(no_room)?;
        let (source, _) = self.flight.source(0);
        let patience = Backoff::new(AFTER_THE_HEAD);
        self.lanes = vec![Lane::open(written, patience, source)];
        Ok(())
    }

    /// What is in the spool is not the blob's: the lane begins at the blob's first byte.
    async fn start_over(&mut self, at: usize) -> Result<(), Failure> {
        self.flush().await?;
        if let Some(spool) = &mut self.spool {
            spool.restart().map_err(no_room)?;
        }
        self.lanes[at].at = 0;
        Ok(())
    }

    // --- the disk ---

    /// Hands what waits to the disk's thread, if that is idle.
    fn write_on(&mut self) {
        let wants = |spool: &mut Spool| !self.queue.is_empty() || spool.is_behind();
        if let Some(mut spool) = self.spool.take_if(wants) {
            let chunks = mem::take(&mut self.queue);
            self.queued = 0;
            self.writing = Some(spawn_blocking(move || {
                let result = spool.take(&chunks);
                (spool, result)
            }));
        }
    }

    fn wrote(&mut self, done: Result<(Spool, io::Result<()>), JoinError>) -> Result<(), Failure> {
        let (spool, result) = done.map_err(|e| Failure::NoRoom(e.to_string()))?;
        let written = spool.written();
        self.room.wrote(spool.held());
        self.spool = Some(spool);
        result.map_err(no_room)?;
        if self.flight.is_headed() {
            self.flight.wrote(written);
        }
        Ok(())
    }

    /// Waits until everything that came is on disk.
    async fn flush(&mut self) -> Result<(), Failure> {
        loop {
            self.write_on();
            if self.writing.is_none() {
                return Ok(());
            }
            let done = joined(&mut self.writing).await;
            self.writing = None;
            self.wrote(done)?;
        }
    }

    /// The spool, wherever it is.
    async fn at_rest(&mut self) -> Option<Spool> {
        if let Some(writing) = self.writing.take() {
            self.spool = writing.await.ok().map(|(spool, _)| spool);
        }
        self.spool.take()
    }
}

async fn rested<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn_blocking(work).await;
    done.map_err(|e| Failure::NoRoom(e.to_string()))
}

fn no_room(error: io::Error) -> Failure {
    Failure::NoRoom(error.to_string())
}

/// Tries before upstream has answered once: a client is waiting for its first byte.
const BEFORE_THE_HEAD: u32 = 2;
/// Tries in a row without a byte, once there is something worth finishing: about half a minute.
const AFTER_THE_HEAD: u32 = 10;
/// The same for one part among several: the others take it over.
const FOR_A_PART: u32 = 4;
/// Bytes that wait while the disk is busy.
const QUEUE: usize = 1 << 20;
/// Room that is reserved at a time for a blob of unknown size.
const UNKNOWN_STEP: u64 = 16 << 20;
