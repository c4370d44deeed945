//! What is known of a case.

use serde::Deserialize;

/// The truth about a case.
#[derive(Debug, Deserialize)]
pub struct Label {
    /// Its name.
    pub case: String,
    /// Another one.
    #[serde(default)]
    pub id: Option<String>,
    /// What made it.
    #[serde(default)]
    pub family: String,
    /// `climb`, `step`, `spike`, `periodic`, or `none`.
    pub kind: String,
    /// When a climb begins, in seconds since the beginning of the case.
    #[serde(default)]
    pub onset_s: Option<f64>,
    /// When it has used up what there is.
    #[serde(default)]
    pub t_exhaust_s: Option<f64>,
    /// Metrics of which one must be flagged.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Metrics that may be flagged as well.
    #[serde(default)]
    pub metrics_ok: Vec<String>,
    /// How long the case is.
    pub duration_s: f64,
    /// What was put into the case.
    #[serde(default)]
    params: serde_json::Map<String, serde_json::Value>,
}

impl Label {
    /// Is this the case's name?
    pub fn is_called(&self, name: &str) -> bool {
        self.case == name || self.id.as_deref() == Some(name)
    }

    /// Is it a climb?
    pub fn climbs(&self) -> bool {
        self.kind == "climb"
    }

    /// Was a spike, or something periodic, put into it, whatever its kind?
    pub fn holds(&self, kind: &str) -> bool {
        let names: &[&str] = match kind {
            "spike" => &["spike_t"],
            "periodic" => &["cron_period", "saw", "season"],
            _ => &[],
        };
        self.kind == kind || names.iter().any(|name| self.params.contains_key(*name))
    }
}
