//! Checks the settings of jobs.

use super::workers::positive;
use crate::config::file::{JobsSection, NotBefore};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::redis::jobs::JobLimits;

pub(super) fn validate(jobs: &JobsSection, at: &SettingPath<'_>, report: &mut ErrorCollector) -> JobLimits {
    if jobs.per_caller > jobs.waiting {
        let problem = format!("must not exceed `waiting` ({}), which holds for all callers", jobs.waiting);
        report.fault(&at.key("per_caller"), problem);
    }
    let keep = positive(jobs.keep.0, &at.key("keep"), report);
    let answers = positive(jobs.answers.0, &at.key("answers"), report);
    if answers > keep {
        report.fault(&at.key("answers"), "must not be longer than `keep`: the answer belongs to the job");
    }
    JobLimits {
        attempts: jobs.attempts,
        waiting: jobs.waiting as usize,
        per_caller: jobs.per_caller as usize,
        ttl: positive(jobs.ttl.0, &at.key("ttl"), report),
        keep,
        answers,
        not_before: jobs.not_before == NotBefore::Header,
        idempotency: jobs.idempotency.get(),
    }
}
