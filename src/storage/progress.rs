//! What the requests of a store are doing right now, for whoever gives up on one or asks how far it is.
//!
//! A request enters its phases and counts its bytes; others read. Decides nothing and waits for nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Where one try of a request is. Each one begins with the first phase and goes through them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The store has asked for fewer requests, and others come first.
    Queued,
    /// Whoever knows the credentials is being asked.
    Credentials,
    /// The connection is coming up, or one that is there is waited for.
    Connecting,
    /// The body is being sent: bytes that the connection took, of so many.
    Sending(u64, u64),
    /// All of it is sent.
    Waiting,
    /// The answer is coming: bytes of its body so far.
    Receiving(u64),
    /// The try has failed, and the next one is not due yet.
    Pausing,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Queued => f.write_str("waiting for its turn, for the store asks for fewer requests"),
            Phase::Credentials => f.write_str("looking up credentials"),
            Phase::Connecting => f.write_str("connecting"),
            Phase::Sending(sent, size) => write!(f, "sending: {sent} of {size} bytes"),
            Phase::Waiting => f.write_str("waiting for the answer"),
            Phase::Receiving(size) => write!(f, "receiving the answer: {size} bytes so far"),
            Phase::Pausing => f.write_str("waiting for the next try"),
        }
    }
}

/// One request, on its way until the last clone of this is gone.
#[derive(Clone, Debug)]
pub struct Running(Arc<Request>);

#[derive(Debug)]
struct Request {
    what: String,
    began: Instant,
    state: Mutex<(Phase, Instant)>,
}

impl Running {
    fn state(&self) -> MutexGuard<'_, (Phase, Instant)> {
        // No code that can panic runs under this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request makes progress: it is in this phase from now on.
    pub fn enter(&self, phase: Phase) {
        *self.state() = (phase, Instant::now());
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.state().0
    }

    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        self.state().1.elapsed()
    }
}

/// The requests of one store. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Vec<Weak<Request>>>>);

impl Progress {
    /// A request begins; `what` says which, for messages.
    pub fn begin(&self, what: String) -> Running {
        let now = Instant::now();
        let request = Arc::new(Request { what, began: now, state: Mutex::new((Phase::Credentials, now)) });
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|request| request.strong_count() > 0);
        running.push(Arc::downgrade(&request));
        Running(request)
    }

    /// The oldest request that is on its way: which one, where it is, and for how long; `None` if there is none.
    pub fn describe(&self) -> Option<String> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = running.iter().find_map(Weak::upgrade)?;
        drop(running);
        let seconds = oldest.began.elapsed().as_secs_f64();
        Some(format!("{} for {seconds:.1} s, now {}", oldest.what, Running(oldest.clone()).phase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_is_described_until_it_is_gone() {
        let progress = Progress::default();
        assert_eq!(progress.describe(), None);
        let (one, two) = (progress.begin("storing a".into()), progress.begin("storing b".into()));
        one.enter(Phase::Sending(5, 9));
        let other = one.clone();
        drop(one);
        let text = progress.describe().unwrap();
        assert!(text.starts_with("storing a for ") && text.ends_with("now sending: 5 of 9 bytes"), "{text}");
        drop(other);
        two.enter(Phase::Waiting);
        assert!(progress.describe().unwrap().ends_with("now waiting for the answer"));
        drop(two);
        assert_eq!(progress.clone().describe(), None);
    }

    #[test]
    fn whoever_moves_is_not_idle() {
        let running = Progress::default().begin("x".into());
        std::thread::sleep(Duration::from_millis(20));
        let before = running.idle();
        running.enter(Phase::Sending(1, 2));
        assert!(running.idle() < before);
    }
}
