//! How many requests a store is sent at once: as many as there are, until it says that they are too many.
//!
//! Additive increase, multiplicative decrease, as TCP does it (RFC 5681, 3.1): a complaint halves the number, each full
//! round of answers adds one, and where the number was before the first complaint the limit ends. A complaint also makes
//! all requests wait, so that twenty workers do not knock one after the other. Knows nothing of what is asked, and never
//! tries anything again: that is `storage::retry`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The limit of one store; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whoever waits for its turn holds this, so that turns come in the order in which they were asked for.
    queue: tokio::sync::Mutex<()>,
    /// The first of the queue is told here that something has changed.
    changed: Notify,
}

impl Throttle {
    /// Returns when a request may be sent. That takes as long as those before it in the queue, each of which has a bound of
    /// its own; the queue is as long as its users let it become.
    pub async fn turn(&self) -> Turn {
        let _first = self.0.queue.lock().await;
        loop {
            // From here on no change is missed.
            let changed = self.0.changed.notified();
            let now = Instant::now();
            let wait = match self.state().begin(now) {
                Begin::Now => return Turn { throttle: self.clone(), began: now },
                Begin::At(when) => Some(when),
                Begin::Later => None,
            };
            match wait {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => changed.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store said when it last complained, while requests are held back.
    pub fn complaint(&self) -> Option<String> {
        self.state().slowed.as_ref().map(|slowed| slowed.words.clone())
    }

    /// Has the store answered anything but complaints since then?
    pub fn has_answered_since(&self, moment: Instant) -> bool {
        self.state().answered.is_some_and(|answered| answered > moment)
    }
}

/// What an answer says of how many requests the store can bear.
#[derive(Debug)]
pub(super) enum Load {
    /// These.
    Borne,
    /// Fewer, in its own words.
    TooMuch(String),
    /// Nothing.
    Unknown,
}

/// A request that is on its way, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    throttle: Throttle,
    began: Instant,
}

impl Turn {
    /// The store has answered, whatever it said.
    pub fn answered(&self) {
        if self.throttle.state().answered(Instant::now()) {
            tracing::info!("the store keeps up again: requests are no longer held back");
        }
        self.throttle.0.changed.notify_one();
    }

    /// The request has failed, which says so much of the load, and will come again after `pause`.
    pub fn end(self, load: Load, pause: Duration) {
        match load {
            Load::Borne => self.answered(),
            Load::TooMuch(words) => self.complained(pause, words),
            Load::Unknown => {}
        }
    }

    /// The store has complained in these words.
    fn complained(&self, pause: Duration, words: String) {
        let change = self.throttle.state().complained(self.began, Instant::now(), pause, words);
        match change {
            Change::Begins(limit) => tracing::info!(
                pause_ms = pause.as_millis() as u64,
                "the store asks for fewer requests: from now on at most {limit} at once"
            ),
            Change::Halved(limit) => {
                tracing::debug!("the store still asks for fewer requests: at most {limit} at once")
            }
            Change::Known => {}
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.throttle.state().running -= 1;
        self.throttle.0.changed.notify_one();
    }
}

/// What is known of the store. Pure: the time comes from outside.
#[derive(Debug, Default)]
struct State {
    /// Requests on their way.
    running: usize,
    /// When the store last answered something else than a complaint.
    answered: Option<Instant>,
    /// Since its first complaint, and until it has shown that it keeps up.
    slowed: Option<Slowed>,
}

#[derive(Debug)]
struct Slowed {
    /// At most so many requests at once.
    limit: usize,
    /// As many were on their way at the first complaint.
    full: usize,
    /// Answers since the limit was last changed.
    answers: usize,
    /// When it was last halved: complaints about earlier requests are about what was mended then.
    halved: Instant,
    /// Nothing is sent before.
    until: Instant,
    /// The last complaint.
    words: String,
}

/// May a request begin?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// It has begun.
    Now,
    At(Instant),
    /// When another one has ended, or been answered.
    Later,
}

/// What a complaint has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begins(usize),
    Halved(usize),
    Known,
}

impl State {
    fn begin(&mut self, now: Instant) -> Begin {
        match &self.slowed {
            Some(slowed) if now < slowed.until => return Begin::At(slowed.until),
            Some(slowed) if self.running >= slowed.limit => return Begin::Later,
            _ => {}
        }
        self.running += 1;
        Begin::Now
    }

    /// Returns whether the store keeps up again.
    fn answered(&mut self, now: Instant) -> bool {
        self.answered = Some(now);
        let Some(slowed) = &mut self.slowed else { return false };
        slowed.answers += 1;
        if slowed.answers >= slowed.limit {
            slowed.limit += 1;
            slowed.answers = 0;
        }
        let over = slowed.limit > slowed.full;
        if over {
            self.slowed = None;
        }
        over
    }

    fn complained(&mut self, began: Instant, now: Instant, pause: Duration, words: String) -> Change {
        let running = self.running.max(1);
        let Some(slowed) = &mut self.slowed else {
            let limit = (running / 2).max(1);
            let slowed = Slowed { limit, full: running, answers: 0, halved: now, until: now + pause, words };
            self.slowed = Some(slowed);
            return Change::Begins(limit);
        };
        slowed.until = slowed.until.max(now + pause);
        slowed.words = words;
        if began < slowed.halved {
            return Change::Known;
        }
        slowed.limit = (slowed.limit / 2).max(1);
        (slowed.answers, slowed.halved) = (0, now);
        Change::Halved(slowed.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// With so many requests on their way.
    fn busy(running: usize, now: Instant) -> State {
        let mut state = State::default();
        for _ in 0..running {
            assert_eq!(state.begin(now), Begin::Now);
        }
        state
    }

    proptest! {
        #[test]
        fn whatever_happens_one_request_may_always_be_on_its_way_and_never_more_than_the_limit(
            events in proptest::collection::vec((0u8..4, 0u64..3000), 1..300),
        ) {
            let mut now = Instant::now();
            let (mut state, mut begun) = (State::default(), Vec::new());
            for (event, pause) in events {
                now += Duration::from_millis(50);
                match (event, begun.pop()) {
                    (1, Some(_)) => {
                        state.answered(now);
                        state.running -= 1;
                    }
                    (2, Some(began)) => {
                        state.complained(began, now, Duration::from_millis(pause), String::new());
                        state.running -= 1;
                    }
                    (3, Some(_)) => state.running -= 1,
                    (_, other) => {
                        begun.extend(other);
                        let limit = state.slowed.as_ref().map_or(usize::MAX, |slowed| slowed.limit);
                        match state.begin(now) {
                            Begin::Now => {
                                prop_assert!(state.running <= limit);
                                begun.push(now);
                            }
                            Begin::At(when) => prop_assert!(when > now && when <= now + 3 * SECOND),
                            Begin::Later => prop_assert!(state.running >= limit && limit >= 1),
                        }
                    }
                }
            }
        }

        #[test]
        fn the_limit_ends_when_the_store_has_answered_as_many_at_once_as_before(running in 1usize..100) {
            let now = Instant::now();
            let mut state = busy(running, now);
            state.complained(now, now, SECOND, String::new());
            let most = running * (running + 1);
            prop_assert!((0..most).any(|_| state.answered(now)));
            prop_assert!(state.slowed.is_none());
        }
    }

    #[test]
    fn complaints_about_what_was_sent_before_the_last_halving_count_once() {
        let now = Instant::now();
        let mut state = busy(20, now);
        assert_eq!(state.complained(now, now + SECOND, SECOND, String::new()), Change::Begins(10));
        for _ in 0..19 {
            assert_eq!(state.complained(now, now + SECOND, SECOND, String::new()), Change::Known);
        }
        assert_eq!(state.complained(now + 2 * SECOND, now + 3 * SECOND, SECOND, String::new()), Change::Halved(5));
        assert_eq!(state.begin(now + 3 * SECOND), Begin::At(now + 4 * SECOND));
        assert_eq!(state.begin(now + 4 * SECOND), Begin::Later);
    }

    #[tokio::test]
    async fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let throttle = Throttle::default();
        let first = throttle.turn().await;
        first.complained(Duration::from_millis(20), String::new());
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..5)
            .map(|number| {
                let (throttle, order) = (throttle.clone(), order.clone());
                tokio::spawn(async move {
                    let turn = throttle.turn().await;
                    order.lock().unwrap().push(number);
                    turn.answered();
                })
            })
            .collect();
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(throttle.state().slowed.is_none() && throttle.state().running == 0);
    }
}
