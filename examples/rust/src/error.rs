use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The service refused a call, or did not answer in time. A refusal charges nothing.
#[derive(Debug)]
pub struct LimiterError {
    /// What the service says it is, such as `WAIT_TOO_LONG`; empty where the answer is not its own.
    pub reason: String,
    /// Facts about the reason by name, such as `limited_by`.
    pub metadata: HashMap<String, String>,
    /// When it is worth another try, where the service knows.
    pub retry_after: Option<Duration>,
    status: Status,
}

impl LimiterError {
    pub fn code(&self) -> Code {
        self.status.code()
    }

    pub fn message(&self) -> &str {
        self.status.message()
    }

    /// The ticket of a call that waits in line; any other error as it is.
    pub(crate) fn into_ticket(mut self) -> Result<String, Self> {
        let ticket = self.metadata.remove("ticket");
        ticket.filter(|_| self.reason == "QUEUED").ok_or(self)
    }
}

impl From<Status> for LimiterError {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let retry = status.get_details_retry_info();
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let retry_after = retry.and_then(|retry| retry.retry_delay);
        Self { reason, metadata, retry_after, status }
    }
}

impl fmt::Display for LimiterError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.code(), self.message())
    }
}

impl std::error::Error for LimiterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.status)
    }
}
