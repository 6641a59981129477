//! The same things, where the checker may give another task its turn.

use std::time::Duration;

use futures_util::future::BoxFuture;
pub use shuttle::{
    future::{JoinError, JoinHandle, yield_now},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

pub type Sleep = BoxFuture<'static, ()>;

/// Somebody else's turn: there are no clocks in what is tried.
pub fn sleep(_: Duration) -> Sleep {
    Box::pin(yield_now())
}

/// Runs `work` as a thread of its own among those that are tried.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    shuttle::future::spawn(async move { work() })
}

/// A moment at which another task may go on.
fn turn() {
    AtomicUsize::new(0).load(Ordering::SeqCst);
}

/// tokio's channel, with a turn before whatever is seen or told.
pub mod watch {
    use tokio::sync::watch;
    pub use tokio::sync::watch::Ref;
    use tokio::sync::watch::error::RecvError;

    use super::turn;

    #[derive(Debug)]
    pub struct Sender<T>(watch::Sender<T>);

    #[derive(Debug)]
    pub struct Receiver<T>(watch::Receiver<T>);

    impl<T> Sender<T> {
        pub fn new(value: T) -> Self {
            Self(watch::Sender::new(value))
        }

        pub fn subscribe(&self) -> Receiver<T> {
            turn();
            Receiver(self.0.subscribe())
        }

        pub fn borrow(&self) -> Ref<'_, T> {
            turn();
            self.0.borrow()
        }

        pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            turn();
            self.0.send_modify(modify);
        }

        pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
            turn();
            self.0.send_if_modified(modify)
        }
    }

    impl<T> Receiver<T> {
        pub fn borrow(&self) -> Ref<'_, T> {
            turn();
            self.0.borrow()
        }

        pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
            turn();
            self.0.borrow_and_update()
        }

        pub async fn changed(&mut self) -> Result<(), RecvError> {
            turn();
            self.0.changed().await
        }

        pub async fn wait_for(
            &mut self,
            until: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, RecvError> {
            turn();
            self.0.wait_for(until).await
        }
    }
}
