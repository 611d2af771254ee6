//! What the estimates learn from an answer.

use std::sync::Arc;

use super::settings::CostSettings;
use crate::estimate::PromptEstimate;
use crate::layers::body::BodyGuard;
use crate::request::{Ending, RequestRecord};

/// Guard of an answer: updates the estimates when dropped.
#[derive(Debug)]
pub(crate) struct UsageFeedback {
    pub(super) intake: Arc<CostSettings>,
    pub(super) record: Arc<RequestRecord>,
    pub(super) caller: Arc<str>,
    pub(super) model: Option<Arc<str>>,
    pub(super) prompt: PromptEstimate,
    pub(super) expected_output: u64,
    pub(super) sequences: u64,
}

impl BodyGuard for UsageFeedback {}

impl Drop for UsageFeedback {
    fn drop(&mut self) {
        // An answer that was cut short says nothing about the usual length.
        if self.record.ending() != Ending::Complete || self.record.error().is_some() {
            return;
        }
        let CostSettings { estimates, metrics, .. } = &*self.intake;
        let model = self.model.as_deref();
        let output = self.record.output_tokens();
        if output > 0 {
            estimates.learn_output(&self.caller, model, output / self.sequences);
        }
        if let Some((prompt, output)) = self.record.usage().filter(|(prompt, _)| *prompt > 0) {
            estimates.learn_prompt(model, self.prompt, prompt);
            metrics.token_estimate(self.prompt.tokens + self.expected_output, prompt + output);
        }
    }
}
