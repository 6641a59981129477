use super::*;
use crate::telemetry::metrics::Metrics;

fn key(name: &str) -> Key {
    Key::blob(&Digest::of(Algorithm::Sha256, name.as_bytes()))
}

fn open(dir: &Path) -> Index {
    Index::open(dir, Ledger::new(Arc::new(Metrics::new())))
}

/// Opens it anew once the writer's thread of the one before has let go of the file.
fn open_again(dir: &Path) -> Index {
    loop {
        let again = open(dir);
        if again.db.is_on_disk() {
            return again;
        }
        std::thread::yield_now();
    }
}

async fn insert(index: &Index, name: &str, size: u64) {
    let media_type = String::new();
    index.insert(key(name), size, media_type, 0).await.unwrap();
}

#[tokio::test]
async fn the_least_recently_used_object_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    for name in ["a", "b", "c"] {
        insert(&index, name, 10).await;
    }
    index.touch(&key("a"));
    index.flush().await.unwrap();
    let order: Vec<Key> = index
        .coldest(9, |_| true)
        .into_iter()
        .map(|x| x.0)
        .collect();
    assert_eq!(order, [key("b"), key("c"), key("a")]);
}

#[tokio::test]
async fn what_is_used_survives_a_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    insert(&index, "a", 5000).await;
    insert(&index, "b", 1).await;
    index.remove(vec![key("b")]).await.unwrap();
    drop(index);
    let index = open_again(dir.path());
    assert_eq!(index.ledger.used() - index.ledger.overhead(), 8192);
}

#[tokio::test]
async fn a_torn_index_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index.redb"), b"torn").unwrap();
    let index = open(dir.path());
    assert!(index.wants_rebuild());
    assert!(dir.path().join("index.redb.broken").exists());
    insert(&index, "a", 1).await;
    assert_eq!(index.object(&key("a")).unwrap().size, 1);
    // Every file was found again.
    index.walked().await.unwrap();
    assert!(!dir.path().join("index.redb.broken").exists());
}

/// Pages that are cut off or spoiled, one after the other: no start fails, nothing panics, and the index
/// works, be it the old one or a new one.
#[tokio::test]
async fn a_damaged_index_never_stops_a_start() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.redb");
    let index = open(dir.path());
    let names: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    for name in &names {
        index.touch(&key(name));
        index.adopt(key(name), 5000, 7).await;
        let tag = tag_key("registry.test", "team/app", name, "any");
        let record = TagRecord {
            digest: key(name).digest.to_string(),
            media_type: "a".into(),
            size: 1,
            confirmed: 1,
        };
        index.set_tag(tag, Some(record)).await;
    }
    let pinned = images::image_name("registry.test", "team/app", "1");
    index.set_pin(&pinned, Some(false)).await.unwrap();
    index.walked().await.unwrap();
    drop(index);
    // Its writer's thread closes it, and then it is as a file is that was closed well.
    let closed = std::fs::File::open(&file).unwrap();
    while closed.try_lock().is_err() {
        std::thread::yield_now();
    }
    drop(closed);
    let whole = std::fs::read(&file).unwrap();
    let pages = whole.len() / PAGE;
    let mut kept = 0;
    for number in 0..pages * 2 {
        let at = number / 2 * PAGE;
        let mut bytes = whole.clone();
        match number % 2 {
            0 => bytes.truncate(at),
            _ => {
                for (n, byte) in bytes[at..at + PAGE].iter_mut().enumerate() {
                    *byte ^= (n % 7 == 0) as u8 * 0x41;
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("index.redb"), bytes).unwrap();
        let index = open(dir.path());
        for name in &names {
            index.object(&key(name));
            index.tag_variants(&tag_prefix("registry.test", "team/app", name), |_| true);
        }
        index.coldest(500, |_| true);
        // Mended, if that had to be. Who meets damage first is told so, and written once it is mended.
        let _ = index.flush().await;
        let _ = index.insert(key("new"), 9000, String::new(), 0).await;
        for _ in 0..3 {
            let _ = index.flush().await;
        }
        let known = index.object(&key("new"));
        assert_eq!(known.map(|known| known.size), Some(9000), "{number}");
        kept += usize::from(index.pins().is_pinned(&pinned));
    }
    // What is cut off cannot be opened at all. Of what is spoiled much can be read around; how much hangs on
    // which page is whose, and so on how the writer's thread came to batch what it was sent.
    assert!(kept > pages / 10, "pins survived {kept} of {}", pages * 2);
}

/// Two take out the same object: the second comes when a download has said where it is from, and has not
/// made it known yet.
#[tokio::test]
async fn what_is_taken_out_once_more_keeps_what_is_said_of_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let member = [key("a").to_bytes(), b"here".to_vec()].concat();
    insert(&index, "a", 10).await;
    index.set_member(member.clone()).await;
    drop(index.remove(vec![key("a")]).await.unwrap());
    index.recent.members.forget_all();
    assert!(!index.member(&member), "gone with its bytes");
    index.set_member(member.clone()).await;
    drop(index.remove(vec![key("a")]).await.unwrap());
    index.recent.members.forget_all();
    assert!(index.member(&member));
}

#[tokio::test]
async fn later_uses_go_later_when_the_clock_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    // A clock that was years ahead when these were used.
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        index.adopt(key(name), 1, now_micros() * 2 + n as u64).await;
    }
    index.flush().await.unwrap();
    drop(index);
    let index = open_again(dir.path());
    insert(&index, "c", 1).await;
    index.touch(&key("a"));
    index.flush().await.unwrap();
    let order: Vec<Key> = index
        .coldest(9, |_| true)
        .into_iter()
        .map(|x| x.0)
        .collect();
    assert_eq!(order, [key("b"), key("c"), key("a")]);
}
