//! One request, tried until it is answered for good or its budget is spent.
//!
//! Here the parts meet: whose turn it is (`throttle`), how long a try may take (`watch`), what its failure means
//! (`failure`), whether other credentials would help (`identity`), and when to try again (`storage::retry`). Knows nothing
//! of what is asked.

use std::future::Future;
use std::time::{Duration, Instant};

use aws_sdk_s3::error::SdkError;

use super::S3Store;
use super::failure::{self, Action, Attempt};
use super::refusal;
use super::throttle::{Load, Turn};
use super::watch::{self, TooLong, Tracked};
use crate::error::{Kind, Result};
use crate::storage::progress::{Phase, Running};
use crate::storage::retry::{Failure, Policy, Tries};

impl S3Store {
    pub(super) fn attempt(&self, action: Action, key: &str) -> Attempt<'_> {
        let endpoint = self.endpoint.to_string().trim_end_matches('/').to_owned();
        Attempt { action, bucket: &self.bucket, prefix: &self.prefix, key: self.key(key), endpoint }
    }

    /// Sends a request, each try bounded by the time that `bytes` may take, until the policy gives up.
    pub(super) async fn send<T, E, F>(
        &self,
        action: Action,
        key: &str,
        bytes: u64,
        policy: Policy,
        mut request: impl FnMut(Tracked) -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<Result<T, SdkError<E>>, Failure>> + Send,
        E: std::error::Error + Send + Sync + 'static,
    {
        let attempt = self.attempt(action, key);
        let running = self.progress.begin(attempt.doing());
        let (mut tries, mut renewed) = (policy.carrying(bytes).begin(), false);
        loop {
            running.enter(Phase::Queued);
            let turn = self.turn(&mut tries).await;
            let began = Instant::now();
            let outcome = match &turn {
                Err(late) => Err(Failure::Transient(attempt.given_up(late).hint(refusal::TOO_MANY))),
                Ok(_) => {
                    running.enter(Phase::Credentials);
                    within(&attempt, &running, bytes, tries.left(), request(Tracked(running.clone()))).await
                }
            };
            let (failure, load) = match outcome {
                Ok(Ok(output)) => {
                    turn.iter().for_each(Turn::answered);
                    return Ok(output);
                }
                Ok(Err(error)) => self.judge(&attempt, &error, began, &mut renewed).await,
                Err(failure) => (failure, Load::Unknown),
            };
            let phase = running.phase();
            running.enter(Phase::Pausing);
            let pause = tries.pause(failure);
            if let Ok(turn) = turn {
                turn.end(load, *pause.as_ref().unwrap_or(&Duration::ZERO));
            }
            tokio::time::sleep(pause.map_err(|error| match error.kind() {
                Kind::Unreachable => error.detail(format!("the endpoint is {}, the phase: {phase}", self.endpoint)),
                _ => error,
            })?)
            .await;
        }
    }

    /// Waits until the store may be sent a request, within a strict budget; else says why not.
    async fn turn(&self, tries: &mut Tries) -> Result<Turn, String> {
        let asked = Instant::now();
        let turn = match tries.left() {
            None => self.throttle.turn().await,
            Some(left) => tokio::time::timeout(left, self.throttle.turn()).await.map_err(|_| {
                let words = self.throttle.complaint().unwrap_or_default();
                format!("no time was left for it, for the store asks for fewer requests ({words})")
            })?,
        };
        if self.throttle.has_answered_since(asked) {
            tries.excuse(asked.elapsed());
        }
        Ok(turn)
    }

    /// What a failed try means, and what it says of the store's load.
    async fn judge<E>(
        &self,
        attempt: &Attempt<'_>,
        error: &SdkError<E>,
        began: Instant,
        renewed: &mut bool,
    ) -> (Failure, Load)
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let Some(refusal) = failure::refusal(error) else {
            return (failure::unanswered(attempt, error), Load::Unknown);
        };
        let who = self.identity.describe();
        let failure = match failure::refused(attempt, &refusal, who.as_deref()) {
            Failure::Final(error) if !*renewed && refusal.is_stale_session() && self.identity.discard(began).await => {
                *renewed = true;
                Failure::Transient(error)
            }
            failure => failure,
        };
        let load = match refusal.is_throttling() {
            true => Load::TooMuch(refusal.words(attempt.action)),
            false if refusal.is_transient(attempt.action) => Load::Unknown,
            false => Load::Borne,
        };
        (failure, load)
    }
}

/// One try, given up when it has taken too long.
async fn within<T>(
    attempt: &Attempt<'_>,
    running: &Running,
    bytes: u64,
    left: Option<Duration>,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        outcome = request => outcome,
        why = watch::too_long(running, bytes, left) => {
            let error = attempt.given_up(why.to_string()).hint(failure::UNREACHABLE);
            Err(match why {
                TooLong::OutOfTime => Failure::OutOfTime(error),
                TooLong::Still | TooLong::Slow => Failure::Transient(error),
            })
        }
    }
}
