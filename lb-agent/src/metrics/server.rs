//! `/metrics`, and what else kube-proxy answers beside it (item 56).

use std::sync::Arc;

use tokio::task;

use super::registry::Metrics;
use crate::http::{Reply, Request, Site, TEXT};

/// What `/proxyMode` says.
const MODE: &str = "ebpf";
/// The type of what [`Metrics::encode`] gives.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The older type, as which the same text can be read.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers scrapes.
#[derive(Debug)]
pub struct MetricsSite {
    metrics: Arc<Metrics>,
}

impl MetricsSite {
    /// Answers with `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Site for MetricsSite {
    async fn answer(&self, request: Request) -> Reply {
        match request.path.as_str() {
            "/metrics" => self.scrape(&request.accept).await,
            "/proxyMode" => Reply::new(200, TEXT, MODE).header("x-content-type-options", "nosniff"),
            "/healthz" => Reply::new(200, TEXT, "ok"),
            _ => Reply::not_found(),
        }
    }
}

impl MetricsSite {
    async fn scrape(&self, accept: &str) -> Reply {
        let kind = if accept.contains("application/openmetrics-text") {
            OPEN_METRICS
        } else {
            PROMETHEUS
        };
        let metrics = Arc::clone(&self.metrics);
        // Maps are read: that may take a while.
        match task::spawn_blocking(move || metrics.encode()).await {
            Ok(text) => Reply::new(200, kind, text),
            Err(error) => Reply::new(500, TEXT, error.to_string()),
        }
    }
}
