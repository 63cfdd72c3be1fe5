//! When to try again, and when to give up.
//!
//! The one owner of retries: the S3 client's own are switched off, so that a command's bound is the one it was given and
//! the last error can say how often and how long it was tried.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long to go on, and how long to wait in between: exponential back-off with full jitter
/// (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// No new try begins later than this after the first one began.
    pub budget: Duration,
    /// The upper bound of the first pause; each further bound is twice the last.
    pub first_pause: Duration,
    /// The upper bound of any pause.
    pub longest_pause: Duration,
}

impl Policy {
    /// What the store's requests use.
    pub fn within(budget: Duration) -> Policy {
        Policy { budget, first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(5) }
    }

    /// The pause before the next try, after `tries` failed ones and `elapsed` time, or `None` to give up. `random` lies
    /// in 0..1.
    pub fn pause(&self, tries: u32, elapsed: Duration, random: f64) -> Option<Duration> {
        let doubled = self.first_pause.saturating_mul(1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX));
        let pause = doubled.min(self.longest_pause).mul_f64(random.clamp(0.0, 1.0));
        (elapsed + pause < self.budget).then_some(pause)
    }
}

/// Why a try failed.
#[derive(Debug)]
pub enum Failure {
    /// Another try may succeed.
    Transient(Error),
    /// It will not.
    Final(Error),
}

/// The tries of one request so far.
#[derive(Debug)]
pub struct Tries {
    policy: Policy,
    began: Instant,
    made: u32,
}

impl Policy {
    /// Begins to count: the first try is being made now.
    pub fn begin(self) -> Tries {
        Tries { policy: self, began: Instant::now(), made: 0 }
    }
}

impl Tries {
    /// Returns when it is time for another try.
    ///
    /// # Errors
    /// The failure's own error if another try would not help, or if the policy gives up; it then says how often and how
    /// long it was tried.
    pub async fn again(&mut self, failure: Failure) -> Result<()> {
        let error = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient(error) => error,
        };
        self.made += 1;
        match self.policy.pause(self.made, self.began.elapsed(), fastrand::f64()) {
            Some(pause) => {
                tracing::info!(tries = self.made, pause_ms = pause.as_millis() as u64, "will try again: {error}");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => {
                let seconds = self.began.elapsed().as_secs_f64();
                let plural = if self.made == 1 { "" } else { "s" };
                let budget = self.policy.budget.as_secs_f64();
                Err(error.detail(format!(
                    "gave up after {} attempt{plural} in {seconds:.1} s, for WALDEN_RETRY_TIMEOUT is {budget} s",
                    self.made
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_try_begins_after_the_budget(tries in 1u32..200, elapsed_ms in 0u64..100_000, random in 0.0f64..1.0) {
            let policy = Policy::within(Duration::from_secs(60));
            let elapsed = Duration::from_millis(elapsed_ms);
            if let Some(pause) = policy.pause(tries, elapsed, random) {
                prop_assert!(elapsed + pause < policy.budget);
                prop_assert!(pause <= policy.longest_pause);
            }
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = Policy::within(Duration::from_secs(3600));
        let pause = |tries| policy.pause(tries, Duration::ZERO, 1.0).unwrap().as_millis();
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

    #[tokio::test]
    async fn giving_up_says_how_often() {
        let mut tries = Policy::within(Duration::ZERO).begin();
        let error = tries.again(Failure::Transient(Error::new(Kind::Unreachable, "later"))).await.unwrap_err();
        assert!(error.cause().unwrap().starts_with("gave up after 1 attempt in "), "{error}");
        assert_eq!(error.kind(), Kind::Unreachable);
    }
}
