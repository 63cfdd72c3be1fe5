//! Bounded parallelism: so many jobs at once, and the first error stops the intake. And a bound on how fast they go.

use std::future::Future;
use std::num::NonZeroU32;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::error::{Error, Kind, Result};

/// Works on what `jobs` yields, at most `at_once` (and at least one) at a time, until the channel is closed and empty.
/// Returns the results in the order in which the jobs ended.
///
/// # Errors
/// The first error of a job: the channel is closed at once, so that whoever fills it stops, and running jobs are dropped.
pub async fn run<J, R, F>(mut jobs: Receiver<J>, at_once: usize, work: impl Fn(J) -> F) -> Result<Vec<R>>
where
    F: Future<Output = Result<R>> + Send + 'static,
    R: Send + 'static,
{
    let mut running = JoinSet::new();
    let mut results = Vec::new();
    loop {
        tokio::select! {
            job = jobs.recv(), if running.len() < at_once.max(1) => match job {
                Some(job) => drop(running.spawn(work(job))),
                None => break,
            },
            Some(ended) = running.join_next() => results.push(joined(ended)?),
        }
    }
    while let Some(ended) = running.join_next().await {
        results.push(joined(ended)?);
    }
    Ok(results)
}

/// Does blocking work on a thread where that is fine.
///
/// # Errors
/// Those of the work; [`Kind::Bug`] if it panicked.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// What a task that has ended came to.
///
/// # Errors
/// Its own; [`Kind::Bug`] if it panicked or was stopped.
pub fn joined<R>(ended: Result<Result<R>, tokio::task::JoinError>) -> Result<R> {
    match ended {
        Ok(result) => result,
        Err(lost) => Err(Error::new(Kind::Bug, "a job ended without a result").detail(lost.to_string())),
    }
}

/// So many threads, by whose names `ps` and `top` show what they do.
///
/// # Errors
/// [`Kind::Local`] if the system has no room for them.
pub fn threads(count: usize, name: &'static str) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(move |index| format!("{name}-{index}"))
        .build()
        .map_err(|error| Error::new(Kind::Local, "could not start the workers").detail(error.to_string()))
}

/// So many bytes a second, for all threads together.
#[derive(Debug)]
pub struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>,
    clock: MonotonicClock,
}

/// What a pace is counted in: a limiter counts to 2^32.
const UNIT: u64 = 1024;

/// The largest amount that may be waited for at once.
pub const PACED_AT_ONCE: usize = 4 << 20;

impl Pace {
    /// At most so many bytes a second, at least one KiB; up to [`PACED_AT_ONCE`] without delay after a pause.
    pub fn new(bytes_per_second: u64) -> Pace {
        let units =
            |bytes: u64| NonZeroU32::new(u32::try_from(bytes / UNIT).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(units(bytes_per_second)).allow_burst(units(PACED_AT_ONCE as u64));
        Pace { limiter: RateLimiter::direct_with_clock(quota, MonotonicClock), clock: MonotonicClock }
    }

    /// Blocks the thread until so many bytes, at most [`PACED_AT_ONCE`], may pass.
    pub fn wait(&self, bytes: usize) {
        let units = (bytes.min(PACED_AT_ONCE) as u64).div_ceil(UNIT) as u32;
        let Some(units) = NonZeroU32::new(units) else { return };
        // The amount never exceeds what the quota lets pass at once, which would be the outer error.
        while let Ok(Err(early)) = self.limiter.check_n(units) {
            std::thread::sleep(early.wait_time_from(self.clock.now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    fn fill(count: usize) -> Receiver<usize> {
        let (sender, receiver) = mpsc::channel(count.max(1));
        (0..count).for_each(|job| sender.try_send(job).unwrap());
        receiver
    }

    #[tokio::test]
    async fn every_job_is_done_and_no_more_than_allowed_run_at_once() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |job: usize| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(job)
            }
        };
        let mut results = run(fill(50), 3, work).await.unwrap();
        results.sort_unstable();
        assert_eq!(results, (0..50).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_first_error_stops_the_intake() {
        let (sender, receiver) = mpsc::channel(1);
        let feeder = tokio::spawn(async move {
            let mut sent = 0;
            while sender.send(sent).await.is_ok() {
                sent += 1;
            }
            sent
        });
        let work = |job: usize| async move { if job == 5 { Err(Error::new(Kind::Denied, "no")) } else { Ok(()) } };
        assert_eq!(run(receiver, 2, work).await.unwrap_err().kind(), Kind::Denied);
        assert!(feeder.await.unwrap() < 20);
    }
}
