//! The run: every case prepared, gone wrong, mended and looked at, many of them at a time.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    after,
    case::{Case, Place, State},
    judge,
    pull::pull,
    support::{Client, Gateway, Setup, Upstream},
    table::Table,
    trouble::{Door, What},
};

/// What the cases share.
struct Run {
    /// The last two are for the cases of refused connections and of black holes.
    ups: [Upstream; 3],
    client: Client,
    table: Mutex<Table>,
    /// So many are busy at a time; the others wait for something.
    busy: Arc<Semaphore>,
}

/// Runs them all.
pub async fn all(cases: Vec<Case>) {
    assert!(!cases.is_empty(), "no case has such a name");
    let ups = [
        Upstream::start().await,
        Upstream::start().await,
        Upstream::start().await,
    ];
    for (number, case) in cases.iter().enumerate() {
        case.name_hosts(&ups[which(case)], number);
    }
    let mut setup = Setup::default()
        .registry("*.plain.test", TTL)
        .registry("*.robot.test", &format!("auth = \"gateway\"\n{TTL}"))
        .text("limits", "upstream_idle", "2s")
        .text("limits", "upstream_connect", "2s")
        .text("cache", "revalidate_timeout", "2s")
        // All of them come from one address.
        .set("limits", "connections_per_client", "20000");
    for up in &ups {
        setup = setup.reaching(up);
    }
    let mut gateway = setup.start().await;
    let before = after::Before::of(&gateway).await;
    let run = Arc::new(Run {
        ups,
        client: gateway.client(),
        table: Mutex::new(Table::new()),
        busy: Arc::new(Semaphore::new(BUSY)),
    });
    let (doors, others): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .enumerate()
        .partition(|(_, case)| matches!(case.trouble.what, What::Door(_)));
    run.all_at_once(others).await;
    run.behind_doors(doors, &mut gateway).await;

    let run = Arc::try_unwrap(run).unwrap_or_else(|_| panic!("every case has ended"));
    for up in &run.ups {
        up.stop().await;
    }
    let table = run.table.into_inner().expect("no panic under this lock");
    after::nothing_is_left(&gateway, &before).await;
    table.conclude();
}

/// Which of the upstreams a case needs.
fn which(case: &Case) -> usize {
    match case.trouble.what {
        What::Door(Door::Refused) => 1,
        What::Door(Door::BlackHole) => 2,
        _ => 0,
    }
}

// === impl Run ===

impl Run {
    async fn all_at_once(self: &Arc<Self>, cases: Vec<(usize, Case)>) {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let mut tasks = JoinSet::new();
        for (number, case) in cases {
            let place = under_way
                .clone()
                .acquire_owned()
                .await
                .expect("never closed");
            let run = self.clone();
            tasks.spawn(async move {
                run.one(&case, number).await;
                drop(place);
            });
            while let Some(ended) = tasks.try_join_next() {
                ended.expect("a case that panics is broken");
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a case that panics is broken");
        }
    }

    async fn one(&self, case: &Case, number: usize) {
        let up = &self.ups[which(case)];
        let turn = self.busy.acquire().await.expect("never closed");
        let place = case.place(up, number);
        self.prepare(case, &place).await;
        case.arm(up, &place, number);
        let acting = self.act(case, &place);
        tokio::pin!(acting);
        // Who waits for a fault's end is not busy.
        let soon = tokio::time::timeout(Duration::from_millis(500), &mut acting).await;
        drop(turn);
        if soon.is_err() {
            acting.await;
        }
        let (host, cdn) = case.hosts(number);
        up.mend_at(&host);
        up.mend_at(&cdn);
        self.recover(case, &place).await;
        self.table().ran(case);
    }

    async fn behind_doors(self: &Arc<Self>, cases: Vec<(usize, Case)>, gateway: &mut Gateway) {
        if cases.is_empty() {
            return;
        }
        let mut placed = Vec::new();
        for (number, case) in cases {
            let place = case.place(&self.ups[which(&case)], number);
            self.prepare(&case, &place).await;
            placed.push((case, place));
        }
        self.ups[1].stop().await;
        let hole = self.ups[2].black_hole().await;
        let nameless = placed
            .iter()
            .filter(|(case, _)| matches!(case.trouble.what, What::Door(Door::NoName)))
            .map(|(_, place)| place.host.clone());
        let nameless: Vec<_> = nameless.collect();
        gateway
            .reload_as(|setup| {
                nameless
                    .iter()
                    .fold(setup, |setup, host| setup.no_resolve(host))
            })
            .await;
        let acting = placed.iter().map(|(case, place)| self.act(case, place));
        futures_util::future::join_all(acting).await;

        drop(hole);
        self.ups[1].start_again().await;
        self.ups[2].start_again().await;
        let addr = self.ups[0].addr();
        gateway
            .reload_as(|setup| {
                nameless
                    .iter()
                    .fold(setup, |setup, host| setup.resolve(host, addr))
            })
            .await;
        for (case, place) in &placed {
            self.recover(case, place).await;
            self.table().ran(case);
        }
    }

    /// Fills the cache, where the case wants it full.
    async fn prepare(&self, case: &Case, place: &Place) {
        if matches!(case.state, State::Cold | State::Following) {
            return;
        }
        for got in pull(case, place, &self.client, false).await {
            if let Err(why) = judge::well(place, &got) {
                self.table().wrong(case, "prepared", &why);
            }
        }
        if let Some(moved) = &place.moved {
            place.repo.tag(place.tag, &[moved]);
        }
    }

    async fn act(&self, case: &Case, place: &Place) {
        let clients = (0..case.clients()).map(|at| {
            let odd = at % 2 == 1 || case.turn(3, 2) == 0;
            pull(case, place, &self.client, odd)
        });
        for got in futures_util::future::join_all(clients)
            .await
            .iter()
            .flatten()
        {
            let mut table = self.table();
            table.asked(case, got.took);
            if let Err(why) = judge::ill(case, place, got) {
                table.wrong(case, "gone wrong", &why);
            }
        }
    }

    /// What has gone by leaves no trace: everything is served, and is right. Some seconds after, for
    /// a 404 is remembered for as long.
    async fn recover(&self, case: &Case, place: &Place) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for left in (0..20).rev() {
            ticks.tick().await;
            let _turn = self.busy.acquire().await.expect("never closed");
            let got = pull(case, place, &self.client, true).await;
            let wrong = got.iter().find_map(|got| judge::well(place, got).err());
            match wrong {
                None => return,
                Some(why) if left == 0 => self.table().wrong(case, "mended", &why),
                Some(_) => {}
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under this lock")
    }
}

const TTL: &str = r#"tag_ttl = { "fresh" = "1h", "now" = "0s" }"#;
const BUSY: usize = 10;
const UNDER_WAY: usize = 800;
