use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::LimiterError;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that outlives restarts of the server.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    timeout: Duration,
    retries: AtomicU64,
}

impl Connection {
    /// A request is sent again for the time of `timeout` while no server answers it.
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        let channel = endpoint
            // A server that vanished without a goodbye is noticed. It allows a ping every 10 s.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_timeout(timeout)
            .connect_lazy();
        Self { channel, timeout, retries: AtomicU64::new(0) }
    }

    /// The answer to a message, which has to be safe to repeat.
    pub(crate) async fn ask<Q: Clone, A, F>(
        &self,
        message: &Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, LimiterError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut longest = FIRST_PAUSE;
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let sent = send(self.channel.clone(), request);
            let status = match timeout_at(deadline, sent).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no server has answered in time"),
            };
            let pause = longest.mul_f64(fastrand::f64());
            if !is_outage(&status) || Instant::now() + pause > deadline {
                return Err(status.into());
            }
            sleep(pause).await;
            longest = LONGEST_PAUSE.min(2 * longest);
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often a request was sent again, because a server was away.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

/// Whether to ask again: the server is away or stopping, perhaps in the middle of the call.
fn is_outage(status: &Status) -> bool {
    // A proxy says DeadlineExceeded when a call has taken as long as the proxy lets it, and Internal
    // when the server went away in the middle of its answer.
    // What has a source is not a server's answer: the connection broke, which tonic calls Unknown.
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
    ) || status.source().is_some()
}
