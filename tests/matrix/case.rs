//! The cases: their names, and what of upstream is theirs.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{
    support::{Blob, Client, Fault, Manifest, On, Repo, Upstream, image},
    trouble::{self, Sort, Trouble, What},
};

/// What a pull asks for, one after the other; or where a blob's redirect leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Ping,
    Token,
    Tag,
    Index,
    Digest,
    Config,
    Blob,
    Redirect,
    /// All of them.
    All,
}

/// What the gateway holds when it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing, and one client asks.
    Cold,
    /// Nothing, and several ask at once.
    Following,
    /// Everything, and nothing needs asking.
    Warm,
    /// Everything, and the tag has to be confirmed.
    Revalidating,
    /// Everything, and nothing of upstream is to be had.
    Offline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    H1,
    H2,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub state: State,
    pub step: Step,
    pub trouble: Trouble,
    pub wire: Wire,
    /// Decides about what is not in the name.
    pub draw: u64,
}

/// What upstream holds for one case, on hosts of its own.
pub struct Place {
    pub host: String,
    pub repo: Repo,
    pub tag: &'static str,
    pub index: Manifest,
    /// What the tag is moved to, where it is.
    pub moved: Option<Manifest>,
    pub manifest: Manifest,
    pub config: Blob,
    pub layer: Blob,
}

const LAYER: usize = 100_000;
const CONFIG: usize = 2_000;

const STEPS: [Step; 8] = [
    Step::Ping,
    Step::Token,
    Step::Tag,
    Step::Index,
    Step::Digest,
    Step::Config,
    Step::Blob,
    Step::Redirect,
];

/// The seed in use.
pub fn seed() -> u64 {
    let set = std::env::var("PIERHEAD_MATRIX_SEED").ok();
    set.map_or(1, |text| text.parse().expect("a number"))
}

/// Every case that is asked for.
pub fn all() -> Vec<Case> {
    let wanted = std::env::var("PIERHEAD_MATRIX_CASE").unwrap_or_default();
    let full = std::env::var("PIERHEAD_MATRIX").is_ok_and(|which| which == "full");
    let mut cases = Vec::new();
    let mut add = |state, step, trouble: &Trouble| {
        for (turn, wire) in [Wire::H1, Wire::H2].into_iter().enumerate() {
            let mut case = Case {
                state,
                step,
                trouble: trouble.clone(),
                wire,
                draw: 0,
            };
            let name = case.to_string();
            let mut hasher = DefaultHasher::new();
            let bare = name.rsplit_once('/').expect("a protocol").0;
            (seed(), bare).hash(&mut hasher);
            case.draw = hasher.finish();
            let its_turn = case.draw as usize % 2 == turn
                && (case.draw / 2).is_multiple_of(case.one_of() * few());
            if name.contains(&wanted) && (full || its_turn || !wanted.is_empty()) {
                cases.push(case);
            }
        }
    };
    let mut random = seed();
    for step in STEPS {
        let len = match step {
            Step::Blob | Step::Redirect => LAYER,
            Step::Config => CONFIG,
            // About: an offset beyond the end is the end.
            _ => 400,
        };
        let troubles = trouble::at(step, len as u64, || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random >> 33
        });
        for state in [
            State::Cold,
            State::Following,
            State::Warm,
            State::Revalidating,
        ] {
            for trouble in &troubles {
                add(state, step, trouble);
            }
        }
    }
    for trouble in trouble::everywhere() {
        for state in [State::Cold, State::Following, State::Offline] {
            add(state, Step::All, &trouble);
        }
    }
    cases
}

// === impl Case ===

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step;
        let name = format!(
            "{:?}/{step:?}/{}/{:?}",
            self.state, self.trouble.name, self.wire
        );
        f.write_str(&name.to_lowercase())
    }
}

/// Of all of them one in so many runs each time; one in one with `PIERHEAD_MATRIX=most`.
fn few() -> u64 {
    match std::env::var("PIERHEAD_MATRIX").as_deref() {
        Ok("most") => 1,
        _ => 8,
    }
}

impl Case {
    /// Of so many cases of its kind, one runs unless all are asked for; see [`few`] too.
    fn one_of(&self) -> u64 {
        let fetched = matches!(self.step, Step::Config | Step::Blob | Step::Redirect);
        match self.state {
            State::Cold | State::Offline => 1,
            State::Following if fetched => 1,
            State::Revalidating if self.step == Step::Tag => 1,
            State::Following | State::Revalidating => 2,
            // Nothing of upstream is asked but the ping.
            State::Warm if self.step == Step::Ping => 1,
            State::Warm => 4,
        }
    }

    /// One of several ways that its name leaves open.
    pub fn turn(&self, which: u32, of: u64) -> u64 {
        (self.draw >> (8 + 4 * which)) % of
    }

    /// The gateway holds everything when it goes wrong.
    pub fn is_held(&self) -> bool {
        !matches!(self.state, State::Cold | State::Following)
    }

    /// Its registry takes tokens, which its clients fetch.
    pub fn has_tokens(&self) -> bool {
        self.step == Step::Token || self.turn(0, 4) == 0
    }

    /// The gateway asks in its own name, and fetches tokens itself.
    pub fn by_robot(&self) -> bool {
        self.step == Step::Token && self.turn(1, 2) == 0
    }

    /// The tag moves before it has to be confirmed.
    pub fn moves(&self) -> bool {
        self.state == State::Revalidating && self.turn(2, 2) == 0
    }

    pub fn clients(&self) -> usize {
        match self.state {
            State::Following => 4,
            _ => 1,
        }
    }

    /// Its hosts: the registry's, and where its blobs are.
    pub fn hosts(&self, number: usize) -> (String, String) {
        let kind = if self.by_robot() { "robot" } else { "plain" };
        (
            format!("r{number}.{kind}.test"),
            format!("d{number}.cdn.test"),
        )
    }

    /// Makes its hosts known.
    pub fn name_hosts(&self, up: &Upstream, number: usize) {
        let (host, cdn) = self.hosts(number);
        let mut registry = up.registry(&host);
        if self.has_tokens() {
            registry = registry.bearer(&host);
        }
        if self.step == Step::Redirect {
            registry.cdn(&cdn);
        }
    }

    /// Fills them.
    pub fn place(&self, up: &Upstream, number: usize) -> Place {
        let (host, _) = self.hosts(number);
        let repo = up.repo(&host, "team/app");
        let seed = self.draw ^ (number as u64) << 40;
        let config = format!(r#"{{"seed":{seed},"pad":"{}"}}"#, "x".repeat(CONFIG));
        let config = Blob::of(config[..CONFIG].to_owned());
        let layer = Blob::noise(seed, LAYER);
        repo.put(&config).put(&layer);
        let manifest = Manifest::image(image::OCI_MANIFEST, &config, std::slice::from_ref(&layer));
        let index = Manifest::index(image::OCI_INDEX, &[&manifest]);
        let moved = self
            .moves()
            .then(|| Manifest::index(image::OCI_INDEX, &[&manifest, &manifest]));
        let tag = match self.state {
            State::Warm => "fresh",
            _ => "now",
        };
        repo.put_manifest(&manifest).tag(tag, &[&index]);
        Place {
            host,
            repo,
            tag,
            index,
            moved,
            manifest,
            config,
            layer,
        }
    }

    /// Makes it go wrong.
    pub fn arm(&self, up: &Upstream, place: &Place, number: usize) {
        let (host, cdn) = self.hosts(number);
        match &self.trouble.what {
            What::Door(_) => {}
            What::Shake(shake) => {
                let at = if self.step == Step::Redirect {
                    &cdn
                } else {
                    &host
                };
                up.shake(at, *shake);
                up.cut(at);
            }
            What::Script(faults) => {
                let (at, path) = match self.step {
                    Step::All => (&host, String::new()),
                    Step::Ping => (&host, "/v2/".to_owned()),
                    Step::Token => (&host, "/token".to_owned()),
                    Step::Tag => (&host, format!("/manifests/{}", place.tag)),
                    Step::Index => (&host, format!("/manifests/{}", place.index.digest)),
                    Step::Digest => (&host, format!("/manifests/{}", place.manifest.digest)),
                    Step::Config => (&host, format!("/blobs/{}", place.config.digest)),
                    Step::Blob => (&host, format!("/blobs/{}", place.layer.digest)),
                    Step::Redirect => (&cdn, place.layer.digest.clone()),
                };
                for fault in faults {
                    let on = match is_of_the_body(fault) {
                        true => On::get(&path),
                        false => On::any(&path),
                    };
                    let on = match self.step {
                        Step::Ping => on.exactly(),
                        _ => on,
                    };
                    let on = if self.trouble.once { on } else { on.always() };
                    up.fault(on.at(at), fault.clone());
                }
            }
        }
    }

    /// Upstream's word that the content is not for this caller, or not there.
    pub fn says(&self) -> Option<u16> {
        match self.trouble.sort {
            Sort::Says(status) => Some(status),
            _ => None,
        }
    }

    /// The gateway may pass this answer of upstream's on.
    pub fn relays(&self, status: u16) -> bool {
        matches!(self.trouble.what, What::Script(_))
            && self.trouble.sort == Sort::Away
            && (self.trouble.name.starts_with(&status.to_string())
                || self.trouble.name.starts_with("later"))
    }

    /// A client of the protocol.
    pub fn client(&self, client: &Client) -> Client {
        match self.wire {
            Wire::H1 => client.clone(),
            Wire::H2 => client.clone().h2(),
        }
    }
}

/// An answer to a HEAD does not show it.
pub fn is_of_the_body(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::CutAfter(_)
            | Fault::ResetAfter(_)
            | Fault::StallAt(..)
            | Fault::Trickle(_)
            | Fault::Truncate(_)
            | Fault::LengthOf(_)
            | Fault::Overlong(_)
            | Fault::Corrupt(_)
            | Fault::IgnoreRange
            | Fault::OtherRange
    )
}
