//! What must never happen, and what must happen all the same.

use std::time::Duration;

use crate::{
    case::{Case, Place, State, Step, is_of_the_body},
    pull::Got,
    support::content,
    trouble::{Sort, What},
};

/// While everything is well: all of it is there, and right.
pub fn well(place: &Place, got: &Got) -> Result<(), String> {
    right(place, got, None)?;
    answered(got)
}

/// While it goes wrong.
pub fn ill(case: &Case, place: &Place, got: &Got) -> Result<(), String> {
    right(place, got, Some(case))?;
    if got.took > BOUND {
        return Err(format!("it took too long: {}", got.told()));
    }
    if must(case, got) {
        answered(got)?;
        if must_warn(case, got) && !got.header("warning").starts_with("110 ") {
            return Err(format!("stale, and it does not say so: {}", got.told()));
        }
    }
    Ok(())
}

/// What a client takes for complete is what it asked for.
fn right(place: &Place, got: &Got, case: Option<&Case>) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{why}: {}", got.told()));
    if matches!(got.step, Step::Ping | Step::Token) {
        return Ok(());
    }
    match got.status {
        200 | 206 if !got.head && !got.whole => return Ok(()),
        200 | 206 => {}
        // A body that fails before its first byte takes its head along: that is cut short, too.
        0 if matches!(got.step, Step::Config | Step::Blob) => return Ok(()),
        0 => return wrong("no answer at all"),
        // A 304 is for who has asked whether it changed.
        1..400 => return wrong("no content, and no error"),
        // Whatever upstream says itself, it says itself.
        status if case.is_some_and(|case| case.says() == Some(status)) => return Ok(()),
        400..500 => return Ok(()),
        _ if got.head => return Ok(()),
        _ => {
            let says = case.is_some_and(|case| case.relays(got.status));
            return match names_pierhead(&got.bytes) || says {
                true => Ok(()),
                false => wrong("an error without words"),
            };
        }
    }
    let (digest, len) = match got.step {
        Step::Tag => {
            let named = got.header("docker-content-digest");
            let known = [Some(&place.index), place.moved.as_ref()];
            let mut known = known.into_iter().flatten();
            let Some(known) = known.find(|one| one.digest == named) else {
                return wrong("the tag never was that");
            };
            (&known.digest, known.bytes.len())
        }
        Step::Index => (&place.index.digest, place.index.bytes.len()),
        Step::Digest => (&place.manifest.digest, place.manifest.bytes.len()),
        Step::Config => (&place.config.digest, place.config.len()),
        _ => (&place.layer.digest, place.layer.len()),
    };
    // What a HEAD says of what is not held is upstream's word, and nobody can prove it.
    let of_the_fault = |case: &Case| {
        case.step == got.step || (case.step == Step::Redirect && got.step == Step::Blob)
    };
    if got.head && case.is_some_and(|case| !case.is_held() && of_the_fault(case)) {
        return Ok(());
    }
    if got.head {
        return match got.header("content-length") == len.to_string() {
            true => Ok(()),
            false => wrong(&format!(
                "{} is not its length",
                got.header("content-length")
            )),
        };
    }
    match (got.status, got.part) {
        (206, Some((start, end))) => {
            let blob = if got.step == Step::Config {
                &place.config
            } else {
                &place.layer
            };
            match got.bytes == blob.bytes[start..end] {
                true => Ok(()),
                false => wrong("another part"),
            }
        }
        (206, None) => wrong("a part that nobody asked for"),
        _ if content::digest_like(digest, &got.bytes) == *digest => Ok(()),
        _ => wrong("wrong bytes"),
    }
}

/// It came, and whole.
fn answered(got: &Got) -> Result<(), String> {
    let good = match (got.step, got.part) {
        (Step::Ping, _) => matches!(got.status, 200 | 401),
        (_, Some(_)) => matches!(got.status, 200 | 206),
        _ => got.status == 200,
    };
    match good && (got.whole || got.head) {
        true => Ok(()),
        false => Err(format!("it was not served: {}", got.told())),
    }
}

/// Whether the gateway must serve this all the same.
fn must(case: &Case, got: &Got) -> bool {
    let sort = case.trouble.sort;
    let shaken = matches!(case.trouble.what, What::Shake(_));
    // Does it meet the fault?
    let hit = match case.step {
        Step::All => true,
        Step::Redirect if shaken => matches!(got.step, Step::Config | Step::Blob),
        Step::Redirect => got.step == Step::Blob,
        Step::Token if case.by_robot() => got.step != Step::Ping,
        _ if shaken => true,
        step => step == got.step,
    };
    let tokenless = case.has_tokens() && !case.by_robot() && !got.with_token;
    match got.step {
        Step::Ping => !hit || sort == Sort::Away,
        Step::Token => !hit,
        // Who gets no token gets nothing that is not there yet.
        _ if !case.is_held() => !tokenless && (!hit || comes_in_the_end(case, got)),
        // Who has no token is told to get one, unless there is none to be had.
        Step::Tag if case.state == State::Revalidating && tokenless => {
            case.step == Step::Token && sort == Sort::Away && !case.trouble.once
        }
        // A 404 is remembered for seconds.
        Step::Tag if case.state == State::Revalidating && hit => match sort {
            Sort::Says(status) => status != 404 && case.trouble.once && !got.head,
            _ => true,
        },
        _ => true,
    }
}

/// A break that ends is gone on from, and an error that passes is asked again.
fn comes_in_the_end(case: &Case, got: &Got) -> bool {
    let passes = matches!(case.trouble.sort, Sort::Away | Sort::Breaks);
    let blob = matches!(got.step, Step::Config | Step::Blob);
    // What was announced first is what everybody was told.
    let told = case.trouble.class == "wrong length";
    case.trouble.once && passes && blob && !got.head && !told
}

/// Whether what is served is surely old, for all that anybody knows.
fn must_warn(case: &Case, got: &Got) -> bool {
    let asked = match (case.state, case.step) {
        (State::Offline, Step::All) => true,
        (State::Revalidating, Step::Tag) => seen_by_head(case) && !case.trouble.once,
        _ => false,
    };
    asked && got.step == Step::Tag
}

/// Whether an answer to a HEAD shows it.
fn seen_by_head(case: &Case) -> bool {
    match &case.trouble.what {
        What::Script(faults) => !is_of_the_body(&faults[0]),
        _ => true,
    }
}

fn names_pierhead(bytes: &[u8]) -> bool {
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let message = json.and_then(|json| Some(json["errors"][0]["message"].as_str()?.to_owned()));
    message.is_some_and(|message| message.starts_with("pierhead"))
}

/// Longer than any patience of the gateway's as configured, on a machine that is busy.
const BOUND: Duration = Duration::from_secs(90);
