//! Limits calls to LLM APIs by an openlimit server, together with all other callers.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use openlimit::{Call, Limiter, LimiterError};
//! # use tonic::transport::Endpoint;
//! # async fn example() -> Result<(), LimiterError> {
//! let limiter = Limiter::new(Endpoint::from_static("http://localhost:50051"), Duration::from_secs(5));
//! let call = Call { model: "gpt-4o".into(), tokens: 512, ..Call::default() };
//! let mut reservation = limiter.acquire(&call).await?;
//! reservation.start().await; // sleeps until the call may start
//! // … call the API …
//! reservation.settle(317).await?; // unused tokens are free again at once
//! # Ok(())
//! # }
//! ```

mod connection;
mod error;
mod limiter;
mod reservation;

pub use error::LimiterError;
pub use limiter::{Call, Limiter};
pub use reservation::Reservation;

/// The messages and the client that are generated from the proto.
#[allow(clippy::doc_lazy_continuation, clippy::doc_overindented_list_items)] // as its comments are
pub mod v1 {
    tonic::include_proto!("openlimit.v1");
}
