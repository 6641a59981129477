//! What opening the CA has to tell a person. None of it stops the start.

use std::fmt;
use std::path::PathBuf;

use time::OffsetDateTime;

/// Something that was done, or that somebody should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A new CA was made.
    Created { certificate: PathBuf, key: PathBuf },
    /// There was a key but no certificate, which was issued again from the key.
    Restored { certificate: PathBuf },
    /// `ca.crt` was issued again with the same key since the configured hosts are others.
    Reissued { certificate: PathBuf, scope: Scope },
    /// `[ca] dir` holds a CA that pierhead did not make. It is used as it is.
    Foreign { certificate: PathBuf },
    /// Others than the owner may read or write the key.
    KeyMode { key: PathBuf, mode: u32 },
    /// The CA is not valid yet, by this machine's clock.
    NotYet {
        certificate: PathBuf,
        at: OffsetDateTime,
    },
    /// The CA ends in less than 30 days, or has ended. `own`: pierhead can renew it.
    Expires {
        certificate: PathBuf,
        at: OffsetDateTime,
        ended: bool,
        own: bool,
    },
}

/// How the set of hosts that the CA may sign for has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Name constraints were there and are: `added` hosts fail on clients that have the old
    /// certificate, `removed` ones fail on those that have the new one.
    Changed {
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// There were none before.
    Limited,
    /// There are none any more.
    Unlimited,
}

// === impl Notice ===

impl Notice {
    /// Whether it calls for somebody to act, soon.
    pub fn is_warning(&self) -> bool {
        match self {
            Self::Created { .. } | Self::Restored { .. } | Self::Foreign { .. } => false,
            Self::Reissued { scope, .. } => match scope {
                Scope::Changed { added, .. } => !added.is_empty(),
                Scope::Limited => false,
                Scope::Unlimited => true,
            },
            Self::KeyMode { .. } | Self::NotYet { .. } | Self::Expires { .. } => true,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { certificate, key } => write!(
                f,
                "made a new CA: clients need {}; keep {} secret and back it up",
                certificate.display(),
                key.display()
            ),
            Self::Restored { certificate } => write!(
                f,
                "{} was missing and has been issued again with the same key and subject: clients that trust the old one keep working",
                certificate.display()
            ),
            Self::Reissued { certificate, scope } => {
                write!(
                    f,
                    "{} has been issued again with the same key, ",
                    certificate.display()
                )?;
                scope.fmt(f)
            }
            Self::Foreign { certificate } => write!(
                f,
                "{} was not made by pierhead: it is used as it is, and no name constraints are put into it",
                certificate.display()
            ),
            Self::KeyMode { key, mode } => write!(
                f,
                "{} can be used by others than its owner (mode {mode:04o}): chmod 600 it",
                key.display()
            ),
            Self::NotYet { certificate, at } => write!(
                f,
                "the CA {} is not valid before {}: look at this machine's clock, which says that this is yet to come",
                certificate.display(),
                at.date()
            ),
            Self::Expires {
                certificate,
                at,
                ended,
                own,
            } => {
                let date = at.date();
                let verb = if *ended { "ended" } else { "ends" };
                write!(f, "the CA {} {verb} on {date}: ", certificate.display())?;
                f.write_str(if *own {
                    "run `pierhead ca renew` and give clients the new file (the key stays the same)"
                } else {
                    "ask whoever gave it for a new one"
                })
            }
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { added, removed } => {
                if !added.is_empty() {
                    write!(
                        f,
                        "now also for {}: clients keep working for the other hosts and need the new file for these",
                        added.join(", ")
                    )?;
                } else {
                    f.write_str("for other hosts than before: no client needs the new file")?;
                }
                if !removed.is_empty() {
                    write!(f, "; no longer for {}", removed.join(", "))?;
                }
                Ok(())
            }
            Self::Limited => f.write_str(
                "limited to the configured hosts: clients keep working, and those that have the old file still trust it for any host",
            ),
            Self::Unlimited => f.write_str(
                "for any host, since [ca] name_constraints is off: clients need the new file for hosts that are new",
            ),
        }
    }
}
