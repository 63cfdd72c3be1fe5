//! A service under load: it asks for fewer requests.

use std::time::{Duration, Instant};

use super::super::random::Random;
use super::Fault;

/// First it refuses three of ten requests at random, whatever the client does; then it keeps a rate.
pub struct Load {
    random: Random,
    /// So many requests are still to be met at random.
    rough: usize,
    /// At most so many requests in a window of this length.
    rate: (usize, Duration),
    /// When the window began, and how many requests came through since.
    window: (Instant, usize),
}

impl Load {
    pub fn new(random: Random, rough: usize, rate: (usize, Duration)) -> Load {
        Load { random, rough, rate, window: (Instant::now(), 0) }
    }

    /// How the next request is refused, if it is.
    pub fn refuse(&mut self, now: Instant) -> Option<Fault> {
        if self.rough > 0 {
            self.rough -= 1;
            return (self.random.below(10) < 3).then(|| self.complaint());
        }
        if now.duration_since(self.window.0) >= self.rate.1 {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        (self.window.1 > self.rate.0).then(|| self.complaint())
    }

    fn complaint(&mut self) -> Fault {
        match self.random.below(20) {
            0 => Fault::RetryAfter(503, 1),
            1 => Fault::RetryAfter(429, 1),
            2..10 => Fault::Status(429, "TooManyRequests"),
            _ => Fault::Status(503, "SlowDown"),
        }
    }
}
