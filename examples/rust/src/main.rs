//! Makes a few calls and prints what happens to them, as JSON.

use std::collections::HashMap;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use openlimit::{Call, Limiter, LimiterError};
use serde_json::json;
use tokio::time::sleep;
use tonic::transport::Endpoint;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options =
        Options(arguments.chunks(2).map(|pair| (pair[0].clone(), pair[1..].concat())).collect());

    let endpoint = Endpoint::from_shared(format!(
        "http://{}",
        options.get("--address", "localhost:50051".to_string())?
    ))?;
    let limiter = Limiter::new(endpoint, Duration::from_secs_f64(options.get("--timeout", 5.0)?));
    let call = Call {
        model: options.get("--model", "gpt-4o".to_string())?,
        tokens: options.get("--tokens", 100)?,
        labels: options
            .0
            .get("--label")
            .and_then(|label| label.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .into_iter()
            .collect(),
        max_wait: Some(Duration::from_secs_f64(options.get("--max-wait", 30.0)?)),
        ..Call::default()
    };
    let used = options.get("--used", 40)?;
    let work = Duration::from_secs_f64(options.get("--work", 0.05)?);
    match make_calls(&limiter, &call, options.get("--calls", 1)?, work, used).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            print_refusal(&error);
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn make_calls(
    limiter: &Limiter,
    call: &Call,
    count: u32,
    work: Duration,
    used: i64,
) -> Result<(), LimiterError> {
    let is_serving = limiter.is_serving().await?;
    let status = if is_serving { "SERVING" } else { "NOT_SERVING" };
    println!("{}", json!({"event": "health", "status": status}));
    for _ in 0..count {
        let mut reservation = limiter.acquire(call).await?;
        reservation.start().await;
        let id = reservation.id.clone();
        println!(
            "{}",
            json!({
                "event": "granted",
                "reservation": id,
                "wait": reservation.wait.as_secs_f64(),
                "limited_by": reservation.limited_by,
                "queued": reservation.queued,
                "retries": limiter.retries(),
            })
        );
        sleep(work).await; // here the API is called
        let settled = reservation.settle(used).await?;
        println!(
            "{}",
            json!({
                "event": "settled",
                "reservation": id,
                "settled": settled,
                "retries": limiter.retries(),
            })
        );
    }
    Ok(())
}

fn print_refusal(error: &LimiterError) {
    println!(
        "{}",
        json!({
            "event": "refused",
            "code": upper_snake(&format!("{:?}", error.code())),
            "reason": error.reason,
            "metadata": error.metadata,
            "retry_after": error.retry_after.map(|wait| wait.as_secs_f64()),
            "message": error.message(),
        })
    );
}

/// `NotFound` as `NOT_FOUND`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_uppercase());
    }
    snake
}

/// The program's options by name.
struct Options(HashMap<String, String>);

impl Options {
    fn get<T: FromStr<Err: std::error::Error + 'static>>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, Failure> {
        match self.0.get(name) {
            Some(value) => Ok(value.parse()?),
            None => Ok(default),
        }
    }
}
