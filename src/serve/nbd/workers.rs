//! Threads of one client that wait for what must be fetched: started when there is work for them, and no more than allowed.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Jobs that wait for a thread.
const AHEAD: usize = 16;
/// How long a thread waits for more before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Jobs, and those who do them.
pub(super) struct Workers<J> {
    most: usize,
    queue: Mutex<Queue<J>>,
    /// There is a job, or the end.
    ready: Condvar,
    /// There is room for a job.
    room: Condvar,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
    ended: bool,
}

impl<J> Workers<J> {
    /// Returns at most `most` threads, none of which is started.
    pub(super) fn new(most: usize) -> Self {
        let queue = Queue { jobs: VecDeque::new(), threads: 0, idle: 0, ended: false };
        Self { most: most.max(1), queue: Mutex::new(queue), ready: Condvar::new(), room: Condvar::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().expect("no thread panics with it")
    }

    /// Hands `job` to a thread, which `start` starts where all are busy and there may be more. Gives the job back where there is no
    /// thread, and none can be started.
    pub(super) fn submit(&self, job: J, start: impl FnOnce() -> bool) -> Option<J> {
        let mut queue = self.queue();
        if queue.idle <= queue.jobs.len() && queue.threads < self.most {
            // Before it runs: it counts itself out when it ends.
            queue.threads += 1;
            if !start() {
                queue.threads -= 1;
            }
        }
        if queue.threads == 0 {
            return Some(job);
        }
        while queue.jobs.len() >= AHEAD && queue.threads > 0 {
            queue = self.room.wait(queue).expect("no thread panics with it");
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.ready.notify_one();
        None
    }

    /// Does jobs until there are none for a while, or the end has come.
    pub(super) fn work(&self, mut done: impl FnMut(J)) {
        let mut leaving = Leaving { workers: self, counted: true };
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                let was_full = queue.jobs.len() + 1 >= AHEAD;
                drop(queue);
                if was_full {
                    self.room.notify_one();
                }
                done(job);
                queue = self.queue();
                continue;
            }
            if queue.ended {
                return;
            }
            queue.idle += 1;
            let waited = self.ready.wait_timeout(queue, IDLE).expect("no thread panics with it");
            queue = waited.0;
            queue.idle -= 1;
            if waited.1.timed_out() && queue.jobs.is_empty() {
                // Under the same lock: nobody hands a job to a thread that has left.
                queue.threads -= 1;
                leaving.counted = false;
                return;
            }
        }
    }

    /// Lets the threads end when all jobs are done.
    pub(super) fn end(&self) {
        self.queue().ended = true;
        self.ready.notify_all();
    }
}

/// Counts a thread out however it ends.
struct Leaving<'a, J> {
    workers: &'a Workers<J>,
    counted: bool,
}

impl<J> Drop for Leaving<'_, J> {
    fn drop(&mut self) {
        // A queue whose lock is poisoned has no jobs for anyone.
        if self.counted
            && let Ok(mut queue) = self.workers.queue.lock()
        {
            queue.threads -= 1;
        }
        self.workers.room.notify_all();
    }
}
