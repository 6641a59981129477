use super::*;

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

#[test]
fn nothing_is_readable_under_its_digest_before_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = digest_of(b"hello");
    let key = Key::blob(&digest);
    let mut spool = store.spool(&Key::blob(&digest)).unwrap();
    spool.append(&["hello".into()]).unwrap();
    assert!(store.open_object(&key).unwrap().is_none());
    spool.verify().unwrap();
    let committed = spool.commit(&store).unwrap();
    assert_eq!(store.open_object(&key).unwrap().unwrap().1, 5);
    assert_eq!(store.partials().unwrap().len(), 1);
    assert_eq!(store.partials().unwrap()[0].left, Left::Placed);
    committed.settle();
    assert!(store.partials().unwrap().is_empty());
}

#[test]
fn a_spool_goes_on_where_a_dead_process_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = digest_of(b"hello world");
    let mut first = store.spool(&Key::blob(&digest)).unwrap();
    first.append(&["hello ".into()]).unwrap();
    drop(first);
    let mut second = store.spool(&Key::blob(&digest)).unwrap();
    assert_eq!(second.written(), 6);
    second.append(&["world".into()]).unwrap();
    second.verify().unwrap();
}

#[test]
fn bytes_in_any_order_are_hashed_in_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Key::blob(&digest_of(b"abcdefghij"));
    let mut spool = store.spool(&key).unwrap();
    spool
        .take(&[(4, "ef".into()), (8, "ij".into()), (0, "ab".into())])
        .unwrap();
    assert_eq!((spool.written(), spool.held()), (2, 6));
    // Some bytes come twice, across the edges of what is here.
    spool
        .take(&[(1, "bcde".into()), (5, "fgh".into())])
        .unwrap();
    assert_eq!((spool.written(), spool.held()), (10, 10));
    spool.verify().unwrap();
    spool.commit(&store).unwrap().settle();
    assert!(store.partials().unwrap().is_empty());
    assert_eq!(store.verify(&key).unwrap(), Some(10));
}

#[test]
fn a_spool_with_gaps_is_cut_to_what_counts_by_the_next_process() {
    for by_listing in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Key::blob(&digest_of(b"hello world"));
        let mut first = store.spool(&key).unwrap();
        first.take(&[(8, "rld".into()), (0, "hel".into())]).unwrap();
        drop(first);
        if by_listing {
            let listed = store.partials().unwrap();
            assert_eq!((listed.len(), listed[0].left), (1, Left::Broken(3)));
        }
        let mut second = store.spool(&key).unwrap();
        assert_eq!(second.written(), 3);
        second.take(&[(3, "lo world".into())]).unwrap();
        second.verify().unwrap();
        second.discard();
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }
}

#[test]
fn what_is_beyond_a_gap_can_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Key::blob(&digest_of(b"hello"));
    let mut spool = store.spool(&key).unwrap();
    spool.take(&[(4, "o".into()), (0, "he".into())]).unwrap();
    spool.drop_ahead().unwrap();
    assert_eq!((spool.written(), spool.held()), (2, 2));
    assert_eq!(spool.file().metadata().unwrap().len(), 2);
    spool.take(&[(2, "llo".into())]).unwrap();
    spool.verify().unwrap();
}

#[test]
fn wrong_bytes_do_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = digest_of(b"right");
    let mut spool = store.spool(&Key::blob(&digest)).unwrap();
    spool.append(&["wrong".into()]).unwrap();
    let mismatch = spool.verify().unwrap_err();
    assert_eq!(mismatch.actual, digest_of(b"wrong"));
    spool.discard();
    assert!(store.partials().unwrap().is_empty());
}

#[test]
fn a_directory_serves_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let refused = Store::open(dir.path()).unwrap_err();
    let own = format!("(process {})", std::process::id());
    assert!(refused.to_string().contains(&own), "{refused}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn what_is_in_the_way_is_named_with_its_mend() {
    for (name, is_folder) in [("blobs", false), ("partial", false), ("lock", true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        match is_folder {
            true => fs::create_dir(&path).unwrap(),
            false => fs::write(&path, "").unwrap(),
        }
        let refused = Store::open(dir.path()).unwrap_err().to_string();
        let named = format!("the cache directory cannot be used: {}: ", path.display());
        assert!(refused.starts_with(&named), "{refused}");
        assert!(refused.contains("move that away"), "{refused}");
    }
}

#[test]
fn keys_survive_the_index() {
    for key in [
        Key::blob(&digest_of(b"a")),
        Key::manifest(&Digest::of(Algorithm::Sha512, b"b")),
    ] {
        assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
    }
    assert_eq!(Key::from_bytes(b"x"), None);
}
