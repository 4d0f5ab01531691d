//! Who makes room when all connections are taken? The one whose handshake has gone on for longest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The handshakes that go on. Until its handshake has ended nobody knows whether a peer has a
/// certificate: so those who say nothing must not keep out those who do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Begun>>);

#[derive(Debug, Default)]
struct Begun {
    next: u64,
    /// By the order in which they began; the receiver learns that its sender is dropped.
    going_on: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A handshake that goes on for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Handshake {
    all: Handshakes,
    number: u64,
    let_go: oneshot::Receiver<()>,
}

impl Handshakes {
    /// One more.
    pub fn begin(&self) -> Handshake {
        let (kept, let_go) = oneshot::channel();
        let number = self.with(|begun| {
            let number = begun.next;
            begun.next = number.wrapping_add(1);
            begun.going_on.insert(number, kept);
            number
        });
        Handshake {
            all: self.clone(),
            number,
            let_go,
        }
    }

    /// Lets go of the oldest, where there is one.
    pub fn let_go_of_oldest(&self) {
        self.with(|begun| begun.going_on.pop_first());
    }

    fn with<T>(&self, work: impl FnOnce(&mut Begun) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Handshake {
    /// Ends when it is let go of.
    pub async fn let_go(&mut self) {
        let _ = (&mut self.let_go).await;
    }

    /// It has ended well: it is not let go of any more. Where it was already, `false`.
    pub fn ended(self) -> bool {
        self.remove()
    }

    fn remove(&self) -> bool {
        let number = self.number;
        self.all
            .with(|begun| begun.going_on.remove(&number))
            .is_some()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_goes_on_is_let_go_of() {
        let all = Handshakes::default();
        all.let_go_of_oldest();
        let mut those = [all.begin(), all.begin(), all.begin(), all.begin()];
        all.let_go_of_oldest();
        those[0].let_go().await;
        let [first, second, third, fourth] = those;
        assert!(!first.ended(), "whoever was let go of stays so");
        assert!(second.ended());
        drop(third);
        all.let_go_of_oldest();
        assert!(!fourth.ended());
        assert!(all.with(|begun| begun.going_on.is_empty()));
    }
}
