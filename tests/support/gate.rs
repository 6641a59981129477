//! A gate that one side waits at and the other opens.

use std::sync::Arc;

use tokio::sync::watch;

/// Holds whoever calls [`pass`](Gate::pass) until the test calls [`open`](Gate::open), and tells
/// the test when somebody stands before it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Sides>);

#[derive(Debug)]
struct Sides {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

// === impl Gate ===

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Sides {
            open: watch::Sender::new(false),
            arrived: watch::Sender::new(0),
        }))
    }

    /// Lets everybody through, from now on.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Stands before the gate until it is open.
    pub async fn pass(&self) {
        self.0.arrived.send_modify(|n| *n += 1);
        let mut open = self.0.open.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }

    /// Returns once `n` have come to the gate, whether they are still there or not.
    pub async fn arrived(&self, n: usize) {
        let mut arrived = self.0.arrived.subscribe();
        super::within(30, arrived.wait_for(|seen| *seen >= n))
            .await
            .expect("the gate holds its own sender");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}
