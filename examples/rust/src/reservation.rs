use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, sleep_until};

use crate::LimiterError;
use crate::connection::Connection;
use crate::v1::rate_limit_service_client::RateLimitServiceClient;
use crate::v1::{
    AcquireRequest, AcquireResponse, CancelRequest, ReleaseRequest, RenewRequest, SettleRequest,
};

/// A call that the service has granted.
///
/// Dropped before its start, it gives back what was charged. Dropped later, it frees its slot.
#[derive(Debug)]
pub struct Reservation {
    /// The service's name for it.
    pub id: String,
    /// Time from the answer until the call may start.
    pub wait: Duration,
    /// The unit that sets the wait, such as `tokens`; empty when the wait is 0.
    pub limited_by: String,
    /// How often the service answered meanwhile that the call is still in line.
    pub queued: u32,
    lease: Option<Duration>,
    starts_at: Instant,
    renewals: Option<AbortHandle>,
    /// Taken by whatever ends it.
    open: Option<Named>,
}

/// A reservation as the service wants it named with each operation.
#[derive(Clone, Debug)]
struct Named {
    connection: Arc<Connection>,
    reservation_id: String,
    key: String,
    labels: HashMap<String, String>,
}

impl Reservation {
    pub(crate) fn new(
        connection: Arc<Connection>,
        request: AcquireRequest,
        granted: AcquireResponse,
        queued: u32,
    ) -> Self {
        let wait = granted.wait.and_then(|wait| wait.try_into().ok()).unwrap_or_default();
        Self {
            id: granted.reservation_id.clone(),
            wait,
            limited_by: granted.limited_by,
            queued,
            lease: granted.lease.and_then(|lease| lease.try_into().ok()),
            starts_at: Instant::now() + wait,
            renewals: None,
            open: Some(Named {
                connection,
                reservation_id: granted.reservation_id,
                key: request.key,
                labels: request.labels,
            }),
        }
    }

    /// Sleep until the call may start. From then on, its slot is renewed if it needs one.
    pub async fn start(&mut self) {
        sleep_until(self.starts_at).await;
        if let (Some(named), Some(lease)) = (&self.open, self.lease) {
            self.renewals = Some(tokio::spawn(named.clone().renew(lease / 3)).abort_handle());
        }
    }

    /// Replace the tokens that were reserved by those that were used. False if there was nothing to
    /// settle, as after a restart of a server that has its buckets in memory. If it fails or is
    /// cancelled, the charge stays, and the slot is freed.
    pub async fn settle(mut self, tokens: i64) -> Result<bool, LimiterError> {
        let Some(named) = self.open.clone() else { return Ok(false) };
        if let Some(renewals) = &self.renewals {
            renewals.abort();
        }
        let settled = named.clone().settle(tokens).await;
        if settled.is_err() {
            named.abandon(true).await;
        }
        self.end(); // until here, dropping it frees the slot
        settled
    }

    fn end(&mut self) -> Option<Named> {
        if let Some(renewals) = self.renewals.take() {
            renewals.abort();
        }
        self.open.take()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let has_started = self.starts_at <= Instant::now();
        if let (Some(named), Ok(runtime)) = (self.end(), Handle::try_current()) {
            runtime.spawn(named.abandon(has_started));
        }
    }
}

impl Named {
    async fn settle(self, tokens: i64) -> Result<bool, LimiterError> {
        let Self { connection, reservation_id, key, labels } = self;
        let request = SettleRequest {
            reservation_id,
            key,
            labels,
            tokens: Some(tokens),
            units: HashMap::new(),
        };
        let answer = connection.ask(&request, |channel, request| async move {
            RateLimitServiceClient::new(channel).settle(request).await
        });
        match answer.await {
            Ok(answer) => Ok(answer.settled),
            Err(error) if error.reason == "UNKNOWN_RESERVATION" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keep the slot. Without it, the call goes on all the same, and a later renewal may find one.
    async fn renew(self, every: Duration) {
        let Self { connection, reservation_id, key, labels } = self;
        let request = RenewRequest { reservation_id, key, labels };
        let mut ticks = interval_at(Instant::now() + every, every);
        loop {
            ticks.tick().await;
            let _ = connection
                .ask(&request, |channel, request| async move {
                    RateLimitServiceClient::new(channel).renew(request).await
                })
                .await;
        }
    }

    /// Give the charge back, or free the slot at least. Nobody waits for it: a slot whose release is
    /// lost is free when its lease ends.
    async fn abandon(self, has_started: bool) {
        let Self { connection, reservation_id, key, labels } = self;
        if has_started {
            let request = ReleaseRequest { reservation_id, key, labels };
            let _ = connection
                .ask(&request, |channel, request| async move {
                    RateLimitServiceClient::new(channel).release(request).await
                })
                .await;
        } else {
            let request = CancelRequest { reservation_id, key, labels };
            let _ = connection
                .ask(&request, |channel, request| async move {
                    RateLimitServiceClient::new(channel).cancel(request).await
                })
                .await;
        }
    }
}
