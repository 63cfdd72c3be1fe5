//! When to try again, and when to give up.
//!
//! The one owner of retries: the S3 client's own are switched off, so that a command's bound is the one it was given and
//! the last error can say how often and how long it was tried.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::observe::repeats::REPEATED;
use crate::observe::words::counted;
use crate::wal::segment::SegmentSize;

/// How long to go on, and how long to wait in between: exponential back-off with full jitter
/// (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// No new try begins later than this after the first one began.
    pub budget: Duration,
    /// Whether the budget bounds the try that is running, too. Where it does not, a try that moves may end: a large part
    /// of a backup on a slow line takes longer than anybody wants to wait for an answer.
    pub strict: bool,
    /// After so many tries it is given up even within the budget.
    pub most_tries: u32,
    /// The upper bound of the first pause; each further bound is twice the last.
    pub first_pause: Duration,
    /// The upper bound of any pause.
    pub longest_pause: Duration,
}

impl Policy {
    /// What the store's requests use.
    pub fn within(budget: Duration) -> Policy {
        Policy {
            budget,
            strict: false,
            most_tries: u32::MAX,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }

    /// One try, which may take so long.
    pub fn once(bound: Duration) -> Policy {
        Policy { strict: true, most_tries: 1, ..Policy::within(bound) }
    }

    /// The same for a request that carries so many bytes: a budget that bounds the running try is meant for what fits into
    /// an ordinary segment, and grows with what is larger.
    pub fn carrying(self, bytes: u64) -> Policy {
        let segments = u32::try_from(bytes.div_ceil(SegmentSize::DEFAULT.bytes())).unwrap_or(u32::MAX).max(1);
        match self.strict {
            true => Policy { budget: self.budget.saturating_mul(segments), ..self },
            false => self,
        }
    }

    /// The pause before the next try, after `tries` failed ones and `elapsed` time, or `None` to give up. `random` lies
    /// in 0..1. A pause that the store has asked for is kept if it fits into the budget; if not, coming too early is
    /// better than not at all.
    pub fn pause(&self, tries: u32, elapsed: Duration, random: f64, asked: Option<Duration>) -> Option<Duration> {
        let doubled = self.first_pause.saturating_mul(1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
        let pause = doubled.min(self.longest_pause).mul_f64(random.clamp(0.0, 1.0));
        let fits = |pause: &Duration| tries < self.most_tries && elapsed.saturating_add(*pause) < self.budget;
        asked.map(|asked| asked.max(pause)).filter(fits).or(Some(pause).filter(fits))
    }

    /// How long a try may run that begins now, as far as the budget bounds it. A budget of nothing means one try.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        (self.strict && !self.budget.is_zero()).then(|| self.budget.saturating_sub(elapsed))
    }
}

/// Why a try failed.
#[derive(Debug)]
pub enum Failure {
    /// Another try may succeed.
    Transient(Error),
    /// Another try may succeed, but the store asks to be left alone for so long.
    Busy(Error, Duration),
    /// The end of the budget cut the try short: it says less of the store than the one before it.
    OutOfTime(Error),
    /// Another try will not succeed.
    Final(Error),
}

/// The tries of one request so far.
#[derive(Debug)]
pub struct Tries {
    policy: Policy,
    began: Instant,
    made: u32,
    /// What the last whole try came to.
    last: Option<Error>,
}

impl Policy {
    /// Begins to count: the first try is being made now.
    pub fn begin(self) -> Tries {
        Tries { policy: self, began: Instant::now(), made: 0, last: None }
    }
}

impl Tries {
    /// How long the try that begins now may run, if the policy bounds it.
    pub fn left(&self) -> Option<Duration> {
        self.policy.left(self.began.elapsed())
    }

    /// The budget does not count this time: others were let go first, and were served.
    pub fn excuse(&mut self, waited: Duration) {
        // A strict budget is somebody's patience, whatever the reason of the delay.
        if !self.policy.strict {
            self.began += waited;
        }
    }

    /// How long to wait before another try.
    ///
    /// # Errors
    /// The failure's own error if another try would not help, or if the policy gives up; it then says how often and how
    /// long it was tried.
    pub fn pause(&mut self, failure: Failure) -> Result<Duration> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient(error) => (error, None),
            Failure::Busy(error, asked) => (error, Some(asked)),
            Failure::OutOfTime(cut) => match self.last.take() {
                Some(last) => (last.detail(format!("of the last one: {}", cut.cause().unwrap_or(cut.what()))), None),
                None => (cut, None),
            },
        };
        self.made += 1;
        match self.policy.pause(self.made, self.began.elapsed(), fastrand::f64(), asked) {
            Some(pause) => {
                tracing::info!(target: REPEATED, tries = self.made, pause_ms = pause.as_millis() as u64, "will try again: {error}");
                self.last = Some(error);
                Ok(pause)
            }
            None => {
                let seconds = self.began.elapsed().as_secs_f64();
                let budget = self.policy.budget.as_secs_f64();
                Err(error.detail(format!(
                    "gave up after {} in {seconds:.1} s, for WALDEN_RETRY_TIMEOUT is {budget} s",
                    counted(u64::from(self.made), "attempt")
                )))
            }
        }
    }

    /// Returns when it is time for another try.
    ///
    /// # Errors
    /// Those of [`Tries::pause`].
    pub async fn again(&mut self, failure: Failure) -> Result<()> {
        let pause = self.pause(failure)?;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_try_begins_after_the_budget(
            tries in 1u32..200,
            elapsed_ms in 0u64..100_000,
            random in 0.0f64..1.0,
            asked in proptest::option::of(0u64..u64::MAX),
        ) {
            let policy = Policy::within(Duration::from_secs(60));
            let elapsed = Duration::from_millis(elapsed_ms);
            let asked = asked.map(Duration::from_millis);
            if let Some(pause) = policy.pause(tries, elapsed, random, asked) {
                prop_assert!(elapsed + pause < policy.budget);
                prop_assert!(pause <= policy.longest_pause || Some(pause) == asked);
            }
        }

        #[test]
        fn a_pause_that_was_asked_for_is_kept_if_it_fits_and_no_reason_to_give_up_if_not(
            elapsed in 0u64..59,
            asked in 5u64..100,
        ) {
            let policy = Policy::within(Duration::from_secs(60));
            let (elapsed, asked) = (Duration::from_secs(elapsed), Duration::from_secs(asked));
            let pause = policy.pause(1, elapsed, 1.0, Some(asked)).unwrap();
            prop_assert_eq!(pause, if elapsed + asked < policy.budget { asked } else { policy.first_pause });
        }
    }

    #[test]
    fn what_was_cut_does_not_hide_what_was_whole() {
        let mut tries = Policy { strict: true, ..Policy::within(Duration::from_secs(60)) }.begin();
        let cut = || Failure::OutOfTime(Error::new(Kind::Unreachable, "no answer").detail("no time"));
        assert_eq!(tries.last.as_ref().map(Error::what), None);
        tries.pause(Failure::Transient(Error::new(Kind::Refused, "busy").detail("503").hint("Wait."))).unwrap();
        tries.policy.budget = Duration::ZERO;
        let error = tries.pause(cut()).unwrap_err();
        assert_eq!((error.kind(), error.what(), error.advice()), (Kind::Refused, "busy", Some("Wait.")));
        assert!(
            error.cause().unwrap().starts_with("503; of the last one: no time; gave up after 2 attempts"),
            "{error}"
        );
        let error = Policy::within(Duration::ZERO).begin().pause(cut()).unwrap_err();
        assert_eq!((error.kind(), error.what()), (Kind::Unreachable, "no answer"));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = Policy::within(Duration::from_secs(3600));
        let pause = |tries| policy.pause(tries, Duration::ZERO, 1.0, None).unwrap().as_millis();
        assert_eq!([pause(1), pause(2), pause(3), pause(7), pause(90)], [100, 200, 400, 5000, 5000]);
    }

    #[tokio::test]
    async fn what_is_final_ends_it_and_what_is_transient_does_not() {
        let policy = Policy { first_pause: Duration::ZERO, ..Policy::within(Duration::from_secs(60)) };
        let mut tries = policy.begin();
        for _ in 0..5 {
            tries.again(Failure::Transient(Error::new(Kind::Unreachable, "later"))).await.unwrap();
        }
        let error = tries.again(Failure::Final(Error::new(Kind::Denied, "no"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
    }

    #[test]
    fn only_a_strict_budget_bounds_the_running_try() {
        let (minute, second) = (Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(Policy::within(minute).left(second), None);
        let strict = Policy { strict: true, ..Policy::within(minute) };
        assert_eq!(strict.left(second), Some(59 * second));
        assert_eq!(strict.left(2 * minute), Some(Duration::ZERO));
        assert_eq!(Policy { budget: Duration::ZERO, ..strict }.left(second), None);
        assert_eq!(Policy::once(minute).pause(1, second, 0.0, None), None);
    }

    #[tokio::test]
    async fn giving_up_says_how_often() {
        let mut tries = Policy::within(Duration::ZERO).begin();
        let error = tries.again(Failure::Transient(Error::new(Kind::Unreachable, "later"))).await.unwrap_err();
        assert!(error.cause().unwrap().starts_with("gave up after 1 attempt in "), "{error}");
        assert_eq!(error.kind(), Kind::Unreachable);
    }
}
