use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use uuid::Uuid;

use crate::connection::Connection;
use crate::v1::AcquireRequest;
use crate::v1::rate_limit_service_client::RateLimitServiceClient;
use crate::{LimiterError, Reservation};

const SERVICE: &str = "openlimit.v1.RateLimitService";

/// What a call costs, and whose it is.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub model: String,
    /// The input and the most that the call may write.
    pub tokens: i64,
    pub key: String,
    pub labels: HashMap<String, String>,
    /// A call that would have to wait longer is refused. Without it, the server's bound.
    pub max_wait: Option<Duration>,
}

/// Limits the calls of this process together with those of all others that ask the same service.
#[derive(Clone, Debug)]
pub struct Limiter {
    connection: Arc<Connection>,
}

impl Limiter {
    /// Calls go on while the service is away for less than `timeout`. Connects when first used.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self { connection: Arc::new(Connection::new(endpoint, timeout)) }
    }

    /// Reserve a call, which is charged once however often it has to be asked for.
    pub async fn acquire(&self, call: &Call) -> Result<Reservation, LimiterError> {
        let mut request = AcquireRequest {
            model: call.model.clone(),
            tokens: call.tokens,
            key: call.key.clone(),
            labels: call.labels.clone(),
            max_wait: call.max_wait.and_then(|wait| wait.try_into().ok()),
            request_id: Uuid::new_v4().to_string(),
            ..Default::default()
        };
        let mut queued = 0;
        loop {
            let answer = self.connection.ask(&request, |channel, request| async move {
                RateLimitServiceClient::new(channel).acquire(request).await
            });
            match answer.await {
                Ok(granted) => {
                    return Ok(Reservation::new(self.connection.clone(), request, granted, queued));
                }
                // The ticket keeps the call's place in the line.
                Err(error) => request.request_id = error.into_ticket()?,
            }
            queued += 1;
        }
    }

    /// Whether the service can decide.
    pub async fn is_serving(&self) -> Result<bool, LimiterError> {
        let request = HealthCheckRequest { service: SERVICE.into() };
        let answer = self.connection.ask(&request, |channel, request| async move {
            HealthClient::new(channel).check(request).await
        });
        Ok(answer.await?.status() == ServingStatus::Serving)
    }

    /// How often a request was sent again, because a server was away.
    pub fn retries(&self) -> u64 {
        self.connection.retries()
    }
}
