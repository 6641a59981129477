//! Bad weather upstream: what breaks is resumed, what lies is found out, and what never comes has
//! an end.

use hyper::Method;

use crate::support::{
    Blob, Client, Fault, Gate, Gateway, On, Repo, Setup, Upstream, eventually, upstream::Seen,
    within,
};

const LEN: usize = 1_000_000;

async fn blob(seed: u64) -> (Upstream, Repo, Blob) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(seed, LEN);
    (up, repo, blob)
}

/// Time-outs as short as tests like them.
fn hasty(up: &Upstream) -> Setup {
    let setup = Gateway::before(up).text("limits", "upstream_idle", "1s");
    setup.text("limits", "upstream_connect", "1s")
}

async fn fetch(client: &Client, repo: &Repo, blob: &Blob) {
    let reply = client.get(&repo.blob_url(&blob.digest)).send().await;
    within(60, reply.verified(&blob.digest)).await;
}

/// Where the requests for a blob asked to begin.
fn starts(seen: &[Seen], digest: &str) -> Vec<usize> {
    let gets = seen
        .iter()
        .filter(|one| one.method == Method::GET && one.path.contains(digest));
    let start = |one: &Seen| {
        let range = one.header("range").strip_prefix("bytes=")?.to_owned();
        range.split('-').next()?.parse().ok()
    };
    gets.map(|one| start(one).unwrap_or(0)).collect()
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_it_stopped() {
    for cut in [1, 100_000, 999_999] {
        let (up, repo, blob) = blob(cut).await;
        up.fault(On::get(&blob.digest), Fault::CutAfter(cut));
        let gateway = Gateway::before(&up).start().await;
        fetch(&gateway.client(), &repo, &blob).await;
        let starts = starts(&up.seen(), &blob.digest);
        assert!(starts.len() >= 2, "{starts:?}");
        let cut = cut as usize;
        let resumed = starts[1];
        assert!(
            resumed <= cut && resumed + 70_000 >= cut,
            "cut at {cut}, went on at {resumed}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_breaks_before_its_first_byte_is_asked_for_again() {
    let (up, repo, blob) = blob(11).await;
    up.fault(On::get(&blob.digest), Fault::HangUp);
    up.fault(On::get(&blob.digest), Fault::CutAfter(0));
    let gateway = Gateway::before(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn a_download_that_breaks_many_times_arrives() {
    let (up, repo, blob) = blob(12).await;
    for _ in 0..3 {
        up.fault(On::get(&blob.digest), Fault::CutAfter(200_000));
    }
    up.fault(On::get(&blob.digest), Fault::ResetAfter(100_000));
    let gateway = Gateway::before(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn a_server_error_in_the_middle_is_no_end() {
    let (up, repo, blob) = blob(13).await;
    up.fault(On::get(&blob.digest), Fault::CutAfter(200_000));
    up.fault(On::get(&blob.digest), Fault::Status(503, vec![], "busy"));
    let gateway = Gateway::before(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn a_download_is_resumed_through_a_fresh_redirect_when_the_old_one_has_expired() {
    let up = Upstream::start().await;
    let repo = up.registry("registry.test").cdn("cdn.test").repo("app");
    let blob = repo.blob(14, LEN);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest).at("cdn.test"),
        Fault::StallAt(300_000, gate.clone()),
    );
    let gateway = Gateway::before(&up).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    gate.arrived(1).await;
    up.expire_signatures();
    up.stop().await;
    up.start_again().await;
    within(60, reply.verified(&blob.digest)).await;
    let seen = up.seen();
    let redirects = seen.iter().filter(|one| one.status == Some(307)).count();
    assert_eq!(redirects, 2);
    let last = seen.iter().rfind(|one| one.host == "cdn.test").unwrap();
    assert_eq!(last.status, Some(206), "from where it stopped: {last:?}");
}

#[tokio::test]
async fn a_public_download_is_resumed_when_the_callers_token_has_expired() {
    let up = Upstream::start().await;
    let registry = up.registry("registry.test").bearer("auth.test");
    let repo = registry.repo("app");
    let blob = repo.blob(15, LEN);
    let gate = Gate::new();
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client().bearer(&registry.token(None, "app"));
    // The first request may come without its token, while the gateway finds out who may see it.
    let stall = On::get(&blob.digest).times(3);
    up.fault(stall, Fault::StallAt(300_000, gate.clone()));
    let asking = {
        let (client, url) = (client.clone(), repo.blob_url(&blob.digest));
        tokio::spawn(async move { client.get(&url).send().await })
    };
    let digest = blob.digest.clone();
    up.until(move |seen| {
        seen.iter()
            .any(|one| one.path.contains(&digest) && one.status == Some(200))
    })
    .await;
    let reply = within(30, asking).await.unwrap();
    up.mend();
    up.expire_tokens();
    up.stop().await;
    up.start_again().await;
    within(60, reply.verified(&blob.digest)).await;
    assert!(
        up.count(Method::GET, "/token") >= 1,
        "nobody fetched a token"
    );
}

#[tokio::test]
async fn an_upstream_that_ignores_the_range_is_read_past_what_is_there() {
    let (up, repo, blob) = blob(16).await;
    up.fault(On::get(&blob.digest), Fault::CutAfter(300_000));
    up.fault(On::get(&blob.digest), Fault::IgnoreRange);
    let gateway = Gateway::before(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn an_upstream_that_sends_another_range_is_not_believed() {
    let (up, repo, blob) = blob(17).await;
    up.fault(On::get(&blob.digest), Fault::CutAfter(300_000));
    up.fault(On::get(&blob.digest), Fault::OtherRange);
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let rest = within(60, gateway.client().get(&url).send().await.rest()).await;
    // To give up on such an upstream is right as well; to pass its bytes on is not.
    assert_eq!(rest.bytes, blob.bytes[..rest.bytes.len()]);
    assert_eq!(rest.whole, rest.bytes.len() == LEN);
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn an_upstream_that_stalls_is_given_up_and_the_download_resumed() {
    let (up, repo, blob) = blob(18).await;
    let never = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(300_000, never.clone()),
    );
    let gateway = hasty(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
    let starts = starts(&up.seen(), &blob.digest);
    assert!(starts.len() == 2 && starts[1] > 200_000, "{starts:?}");
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_asked_again() {
    let (up, repo, blob) = blob(19).await;
    let never = Gate::new();
    up.fault(On::get(&blob.digest), Fault::Silence(never.clone()));
    let gateway = hasty(&up).start().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn a_slow_first_byte_is_waited_for() {
    let (up, repo, blob) = blob(20).await;
    let gate = Gate::new();
    up.fault(On::get(&blob.digest), Fault::Late(gate.clone()));
    let gateway = Gateway::before(&up).start().await;
    let (client, url) = (gateway.client(), repo.blob_url(&blob.digest));
    let asking = tokio::spawn(async move { client.get(&url).send().await });
    gate.arrived(1).await;
    gate.open();
    within(30, asking)
        .await
        .unwrap()
        .verified(&blob.digest)
        .await;
    assert_eq!(up.count(Method::GET, &blob.digest), 1);
}

#[tokio::test]
async fn a_corrupt_blob_ends_short_and_leaves_nothing_behind() {
    let (up, repo, blob) = blob(21).await;
    up.fault(On::get(&blob.digest), Fault::Corrupt(700_000));
    let gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let rest = gateway.client().get(&url).send().await.rest().await;
    assert!(
        !rest.whole && rest.bytes.len() < LEN,
        "{} bytes",
        rest.bytes.len()
    );
    // Both digests are in the log.
    let mut wrong = blob.bytes.to_vec();
    wrong[700_000] ^= 0xFF;
    let wrong = Blob::of(wrong);
    let line = gateway.log.line(&wrong.digest).await;
    assert!(line.contains(&blob.digest), "{line}");
    eventually("nothing of it is left", || {
        gateway.copies_of(&blob.bytes) == 0
    })
    .await;
    fetch(&gateway.client(), &repo, &blob).await;
}

/// What is not the blob reaches no client as the blob, and does no harm to the next one.
async fn assert_found_out(seed: u64, fault: Fault) {
    let (up, repo, blob) = blob(seed).await;
    up.fault(On::get(&blob.digest), fault);
    let gateway = hasty(&up).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    let status = reply.status;
    let rest = within(60, reply.rest()).await;
    let right = rest.bytes == blob.bytes;
    let told = status >= 500 || !rest.whole;
    assert!(
        right || told,
        "{status} and {} wrong bytes",
        rest.bytes.len()
    );
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn a_body_that_is_truncated_is_found_out() {
    assert_found_out(30, Fault::Truncate(400_000)).await;
}

#[tokio::test]
async fn a_body_that_is_longer_than_the_blob_is_found_out() {
    assert_found_out(31, Fault::Overlong(5000)).await;
}

#[tokio::test]
async fn a_length_that_is_too_large_is_found_out() {
    assert_found_out(32, Fault::LengthOf(LEN as u64 + 77)).await;
}

#[tokio::test]
async fn a_length_that_is_too_small_is_found_out() {
    assert_found_out(33, Fault::LengthOf(400_000)).await;
}

#[tokio::test]
async fn a_web_page_is_not_a_blob() {
    assert_found_out(34, Fault::Html).await;
}

#[tokio::test]
async fn an_upstream_that_goes_away_for_good_is_an_error_in_the_end() {
    let (up, repo, blob) = blob(40).await;
    let gate = Gate::new();
    up.fault(On::get(&blob.digest), Fault::StallAt(300_000, gate.clone()));
    let gateway = hasty(&up).start().await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&blob.digest))
        .send()
        .await;
    gate.arrived(1).await;
    up.stop().await;
    let rest = within(100, reply.rest()).await;
    assert!(!rest.whole);
    assert_eq!(rest.bytes, blob.bytes[..rest.bytes.len()]);
    // It comes back, and so does the blob.
    up.start_again().await;
    fetch(&gateway.client(), &repo, &blob).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_an_error_that_a_person_can_read() {
    let (up, repo, blob) = blob(41).await;
    let gateway = hasty(&up).start().await;
    up.stop().await;
    let client = gateway.client();
    let reply = within(100, client.get(&repo.blob_url(&blob.digest)).send()).await;
    assert!(reply.status >= 500, "{}", reply.status);
    let (_, message) = reply.oci_error().await;
    assert!(message.contains("registry.test"), "{message}");
}

#[tokio::test]
async fn an_upstream_that_never_answers_at_all_is_an_error_in_the_end() {
    let (up, repo, blob) = blob(42).await;
    let never = Gate::new();
    up.fault(On::any("/v2/").always(), Fault::Silence(never.clone()));
    let gateway = hasty(&up).start().await;
    let client = gateway.client();
    let asking = client.get(&repo.blob_url(&blob.digest)).try_send();
    let reply = within(100, asking).await.expect("an answer");
    assert!(reply.status >= 500, "{}", reply.status);
    reply.oci_error().await;
}

#[tokio::test]
async fn a_manifest_that_comes_a_byte_at_a_time_is_not_waited_for() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 50, &[10]);
    let drops = Fault::Trickle(std::time::Duration::from_millis(200));
    up.fault(On::get("/manifests/").always(), drops);
    let gateway = hasty(&up).start().await;
    for url in [image.by_tag(), image.by_digest()] {
        let reply = within(30, gateway.client().get(&url).send()).await;
        assert!(reply.status >= 500, "{}", reply.status);
        reply.oci_error().await;
    }
    up.mend();
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn a_manifest_whose_transfer_breaks_is_asked_for_again() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 51, &[10]);
    let gateway = hasty(&up).start().await;
    for (fault, url) in [
        (Fault::CutAfter(100), image.by_tag()),
        (Fault::HangUp, image.by_digest()),
    ] {
        up.fault(On::get("/manifests/"), fault);
        let reply = gateway.client().get(&url).send().await;
        reply.verified(&image.manifest.digest).await;
    }
}
