//! The tasks that are under way, one lane for each job (pure).
//!
//! Tasks of different jobs run side by side. Those of one job run one after the other, in the order
//! in which they came: its key must not be free before the job is cancelled.

use std::collections::{HashMap, VecDeque};

use super::keys::Job;

/// Most tasks under way, some MB. Those beyond wait in the outbox.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Lanes<T> {
    /// By job, the tasks that wait for the one that runs.
    waiting: HashMap<Job, VecDeque<T>>,
    count: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), count: 0 }
    }
}

impl<T> Lanes<T> {
    /// Returns `true` if no further task may enter.
    pub(super) const fn is_full(&self) -> bool {
        self.count >= MOST
    }

    /// Adds a task of `job`, and returns it if it runs now.
    pub(super) fn enter(&mut self, job: Job, task: T) -> Option<T> {
        self.count += 1;
        if let Some(waiting) = self.waiting.get_mut(&job) {
            waiting.push_back(task);
            return None;
        }
        self.waiting.insert(job, VecDeque::new());
        Some(task)
    }

    /// Removes the running task of `job`, and returns the one that runs next.
    pub(super) fn leave(&mut self, job: Job) -> Option<T> {
        let waiting = self.waiting.get_mut(&job)?;
        self.count -= 1;
        let next = waiting.pop_front();
        if next.is_none() {
            self.waiting.remove(&job);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_job_run_in_their_order_and_those_of_others_beside_them() {
        let [one, other] = [(); 2].map(|()| Job::random().unwrap());
        let mut lanes = Lanes::default();
        assert_eq!(lanes.enter(one, 1), Some(1));
        assert_eq!(lanes.enter(one, 2), None);
        assert_eq!(lanes.enter(other, 3), Some(3));
        assert_eq!(lanes.enter(one, 4), None);
        assert_eq!((lanes.leave(one), lanes.leave(other)), (Some(2), None));
        assert_eq!((lanes.leave(one), lanes.leave(one), lanes.leave(one)), (Some(4), None, None));
        assert!(lanes.waiting.is_empty() && lanes.count == 0);
    }

    #[test]
    fn lanes_are_bounded() {
        let mut lanes = Lanes::default();
        let job = Job::random().unwrap();
        for number in 0..MOST {
            assert!(!lanes.is_full());
            lanes.enter(job, number);
        }
        assert!(lanes.is_full());
        lanes.leave(job);
        assert!(!lanes.is_full());
    }
}
