use super::tags::MOST_VARIANTS;
use super::*;
use crate::oci::digest::{Algorithm, Digest};
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

#[tokio::test]
async fn a_tag_has_no_more_variants_than_there_are_kinds_of_clients() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let variant = |accept: &str| tag_key("r.test", "app", "v1", &accept_hash(accept));
    let imported = variant(IMPORTED);
    index
        .set_tag(imported.clone(), Some(stands_for("a", 1)))
        .await;
    let rare = variant("b");
    index.set_tag(rare.clone(), Some(stands_for("b", 2))).await;
    let other = tag_key("r.test", "app", "v10", &accept_hash(""));
    index.set_tag(other.clone(), Some(stands_for("a", 2))).await;
    let invented: Vec<String> = (0..200).map(|n| variant(&format!("a/{n}"))).collect();
    for (n, key) in invented.iter().enumerate() {
        let record = stands_for("a", 1000 + n as u64);
        index.set_tag(key.clone(), Some(record)).await;
    }
    index.flush().await.unwrap();
    drop(index);
    let index = open_again(dir.path());
    let held = |key: &String| index.tag(key).is_some();
    assert!(held(&imported) && held(&rare) && held(&other));
    let left: Vec<bool> = invented.iter().map(held).collect();
    let (gone, newest) = left.split_at(200 - (MOST_VARIANTS - 2));
    assert!(
        !gone.contains(&true) && !newest.contains(&false),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_variant_that_was_forgotten_is_not_listed_though_the_table_has_it_still() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let variant = |accept: &str| tag_key("r.test", "app", "v1", &accept_hash(accept));
    for accept in ["a", "b"] {
        let record = stands_for("a", 1);
        index.set_tag(variant(accept), Some(record)).await;
    }
    index.flush().await.unwrap();
    index.db.is_full.store(true, Ordering::Relaxed);
    let prefix = tag_prefix("r.test", "app", "v1");
    index.forget_variants(&prefix, |_| true).await;
    assert!(index.tag_variants(&prefix, |_| true).is_empty());
    let _ = index.flush().await;
    assert!(index.tag_variants(&prefix, |_| true).is_empty());
}

fn stands_for(name: &str, confirmed: u64) -> TagRecord {
    TagRecord {
        digest: key(name).digest.to_string(),
        media_type: "a".into(),
        size: 1,
        confirmed,
    }
}

fn of(index: &Index, tag_key: &str) -> Option<String> {
    index.tag(tag_key).map(|record| record.digest.clone())
}

#[tokio::test]
async fn what_is_taken_back_counts_though_it_cannot_be_written_and_is_written_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(dir.path());
    let tag = |tag: &str| tag_key("registry.test", "team/app", tag, "any");
    let names = ["deleted", "moved", "stays", "gone"].map(tag);
    let [deleted, moved, stays, gone] = &names;
    for name in &names {
        index.set_tag(name.clone(), Some(stands_for("a", 1))).await;
    }
    let grant = [7; 32];
    index.set_grant(grant, Some(1)).await;
    let standing = |at| index.set_standing("registry.test", "team/app", &grant, at);
    standing(Some(1)).await;
    index.flush().await.unwrap();

    index.db.is_full.store(true, Ordering::Relaxed);
    let of_tag = |tag| tag_prefix("registry.test", "team/app", tag);
    index.untag(of_tag("deleted")).await;
    index.untag(of_tag("moved")).await;
    index.set_tag(moved.clone(), Some(stands_for("b", 2))).await;
    index.set_tag(gone.clone(), None).await;
    index.set_grant(grant, None).await;
    standing(None).await;
    let [a, b] = ["a", "b"].map(|name| key(name).digest.to_string());
    // Told, and then tried in vain, more than once.
    for _ in 0..3 {
        assert_eq!(of(&index, deleted), None);
        let variants = index.tag_variants(&of_tag("deleted"), |_| true);
        assert_eq!(variants, []);
        assert_eq!(of(&index, moved), Some(b.clone()));
        assert_eq!(of(&index, stays), Some(a.clone()));
        assert_eq!(of(&index, gone), None);
        index.flush().await.unwrap_err();
    }

    index.db.is_full.store(false, Ordering::Relaxed);
    index.flush().await.unwrap();
    assert_eq!(of(&index, deleted), None);
    assert_eq!(of(&index, stays), Some(a.clone()));
    // And it may stand for something again.
    for name in [deleted, gone] {
        index.set_tag(name.clone(), Some(stands_for("a", 3))).await;
        assert_eq!(of(&index, name), Some(a.clone()));
        index.set_tag(name.clone(), None).await;
    }
    index.flush().await.unwrap();
    drop(index);
    let index = open_again(dir.path());
    for name in [deleted, moved, gone] {
        assert_eq!(of(&index, name), None, "{name}");
    }
    assert_eq!(of(&index, stays), Some(a));
    assert_eq!(index.grant(&grant).unwrap(), None);
    assert!(!index.has_standing("registry.test", "team/app", &grant));
}
