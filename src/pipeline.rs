//! Bounded parallelism: so many jobs at once, and the first error stops the intake.

use std::future::Future;

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
            Some(ended) = running.join_next() => results.push(unwrap(ended)?),
        }
    }
    while let Some(ended) = running.join_next().await {
        results.push(unwrap(ended)?);
    }
    Ok(results)
}

fn unwrap<R>(ended: Result<Result<R>, tokio::task::JoinError>) -> Result<R> {
    match ended {
        Ok(result) => result,
        Err(lost) => Err(Error::new(Kind::Bug, "a job ended without a result").detail(lost.to_string())),
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
