//! A deterministic scheduler: threads of the operating system of which one runs at a time, and a clock of its own.
//!
//! Every lock, wait, sleep and failure point is a step. After each, a random number decides whether the thread goes on or which
//! other does; the seed decides all random numbers, so that a seed is a schedule. Time passes by microseconds a step, by long
//! stalls of a single thread now and then, and up to the earliest timer where no thread can go on. Where there is no timer
//! either, the threads are in deadlock, and the simulation fails.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nobody's turn: the simulation ended or failed.
const NOBODY: usize = usize::MAX;
/// Steps that are printed of a simulation that failed.
const LOGGED: usize = 60;
/// A simulation with more steps than this does not get on.
const MOST_STEPS: u64 = 3_000_000;
/// A step that takes longer than this in real time waits for something outside the simulation.
const LONGEST_STEP: Duration = Duration::from_secs(60);

/// Random numbers of a seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64).max(1)).expect("below a usize")
    }

    /// Returns true in one of `many` cases; never where that is 0.
    pub(crate) fn one_in(&mut self, many: u32) -> bool {
        many > 0 && self.next().is_multiple_of(many.into())
    }

    /// Returns a time between two, short ones as often as long ones.
    pub(crate) fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let part = self.below(1 << 20) as f64 / f64::from(1 << 20);
        let least = least.max(Duration::from_micros(1));
        let most = most.max(least);
        least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(part))
    }
}

/// How often what fails, as one in so many; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Starts of threads.
    pub(crate) spawn: u32,
    /// Operations on files.
    pub(crate) files: u32,
    /// Steps after which the thread stalls.
    pub(crate) stall: u32,
}

/// How a simulation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    /// Decisions which thread goes on.
    pub(crate) steps: u64,
    /// Of all of these, their times, and what was noted.
    pub(crate) trace: u64,
    /// Simulated time.
    pub(crate) time: Duration,
}

struct Scheduler {
    base: Instant,
    state: Mutex<State>,
    /// The thread that runs.
    turn: AtomicUsize,
    ended: Condvar,
}

struct State {
    random: Random,
    now: Duration,
    /// Whether the running thread goes on: one step in so many gives another its turn.
    switch: u32,
    faults: Faults,
    stalled: Duration,
    last_failure: Option<Duration>,
    threads: Vec<Thread>,
    /// Places of threads that ended.
    free: Vec<usize>,
    runnable: Vec<usize>,
    timers: BTreeSet<(Duration, usize)>,
    live: usize,
    started: u64,
    steps: u64,
    trace: u64,
    log: VecDeque<(Duration, u64, &'static str, &'static Location<'static>)>,
    failure: Option<String>,
    environment: Option<Arc<dyn Any + Send + Sync>>,
}

struct Thread {
    name: String,
    number: u64,
    handle: Option<std::thread::Thread>,
    blocked: Option<Blocked>,
    timed_out: bool,
    last: (&'static str, &'static Location<'static>),
}

#[derive(Clone, Copy)]
struct Blocked {
    /// What it waits for; `None` for the time alone.
    key: Option<usize>,
    until: Option<Duration>,
}

thread_local! {
    static CURRENT: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// Returns the simulated thread that calls this; `None` on any other thread.
pub(crate) fn current() -> Option<Simulated> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// A thread of a simulation.
#[derive(Clone)]
pub(crate) struct Simulated {
    scheduler: Arc<Scheduler>,
    id: usize,
}

/// Runs `body` as the first thread of a simulation, until all its threads ended.
///
/// # Errors
/// What failed, the states of the threads and the last steps.
pub(crate) fn simulate(seed: u64, body: impl FnOnce() + Send + 'static) -> Result<Report, String> {
    let mut random = Random(seed);
    let switch = [1, 2, 5, 20][random.below(4)];
    let state = State {
        random,
        now: Duration::ZERO,
        switch,
        faults: Faults::default(),
        stalled: Duration::ZERO,
        last_failure: None,
        threads: Vec::new(),
        free: Vec::new(),
        runnable: Vec::new(),
        timers: BTreeSet::new(),
        live: 0,
        started: 0,
        steps: 0,
        trace: seed,
        log: VecDeque::new(),
        failure: None,
        environment: None,
    };
    let (turn, ended) = (AtomicUsize::new(NOBODY), Condvar::new());
    let scheduler = Arc::new(Scheduler { base: Instant::now(), state: Mutex::new(state), turn, ended });
    let first = Simulated { scheduler: Arc::clone(&scheduler), id: NOBODY };
    first.spawn("main", body);
    let mut state = scheduler.state();
    scheduler.next(&mut state);
    let mut steps = 0;
    while state.failure.is_none() && state.live > 0 {
        let waited = scheduler.ended.wait_timeout(state, LONGEST_STEP);
        let (again, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state = again;
        if waited.timed_out() && std::mem::replace(&mut steps, state.steps) == state.steps && state.live > 0 {
            let message = "no step for a minute: a thread waits for something outside the simulation";
            state.failure = Some(message.to_owned());
        }
    }
    match state.failure.take() {
        Some(failure) => Err(format!("{failure}\n{}", state.describe())),
        None => Ok(Report { steps: state.steps, trace: state.trace, time: state.now }),
    }
}

impl Scheduler {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses who runs next, and has it run.
    fn next(&self, state: &mut State) -> usize {
        if state.runnable.is_empty()
            && let Some((at, _)) = state.timers.first().copied()
        {
            state.now = state.now.max(at);
            state.fire_timers();
        }
        let next = match state.runnable.len() {
            0 if state.live == 0 => NOBODY,
            0 => {
                state.failure.get_or_insert_with(|| "deadlock: no thread can go on, and no timer runs".to_owned());
                NOBODY
            }
            count => state.runnable[state.random.below(count)],
        };
        self.give_turn(state, next);
        next
    }

    fn give_turn(&self, state: &State, next: usize) {
        self.turn.store(next, Ordering::Release);
        match state.threads.get(next) {
            Some(thread) => thread.handle.as_ref().expect("it was started").unpark(),
            None => self.ended.notify_all(),
        }
    }

    /// Waits until it is the turn of thread `id`: for ever where the simulation failed.
    fn wait_for_turn(&self, id: usize) {
        while self.turn.load(Ordering::Acquire) != id {
            std::thread::park();
        }
    }
}

impl State {
    fn mix(&mut self, value: u64) {
        self.trace = (self.trace.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn fire_timers(&mut self) {
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, id));
            self.threads[id].blocked = None;
            self.threads[id].timed_out = true;
            self.runnable.push(id);
        }
    }

    fn block(&mut self, id: usize, blocked: Blocked) {
        self.runnable.retain(|other| *other != id);
        if let Some(until) = blocked.until {
            self.timers.insert((until, id));
        }
        self.threads[id].timed_out = false;
        self.threads[id].blocked = Some(blocked);
    }

    fn unblock(&mut self, id: usize) {
        if let Some(Blocked { until: Some(until), .. }) = self.threads[id].blocked.take() {
            self.timers.remove(&(until, id));
        }
        self.runnable.push(id);
    }

    fn waiting_for(&self, key: usize) -> Vec<usize> {
        let waits = |thread: &Thread| thread.blocked.is_some_and(|blocked| blocked.key == Some(key));
        (0..self.threads.len()).filter(|id| waits(&self.threads[*id])).collect()
    }

    fn describe(&self) -> String {
        let mut out = format!("after {} steps, at {:?}; the threads:\n", self.steps, self.now);
        for thread in self.threads.iter().filter(|thread| thread.handle.is_some()) {
            let (what, at) = thread.last;
            let state = match thread.blocked {
                None => "can go on".to_owned(),
                Some(Blocked { until: None, .. }) => "is blocked".to_owned(),
                Some(Blocked { until: Some(until), .. }) => format!("waits until {until:?}"),
            };
            let _ = writeln!(out, "  {} {}: {state}, last: {what} at {at}", thread.number, thread.name);
        }
        let _ = writeln!(out, "the last steps:");
        for (now, number, what, at) in &self.log {
            let _ = writeln!(out, "  {now:?} thread {number}: {what} at {at}");
        }
        out
    }
}

impl Simulated {
    /// Ends a step of this thread.
    pub(super) fn step(&self, what: &'static str, at: &'static Location<'static>) {
        // A thread that unwinds is about to end the simulation.
        if std::thread::panicking() {
            return;
        }
        let mut state = self.scheduler.state();
        self.count(&mut state, what, at);
        let (many, switch) = (state.faults.stall, state.switch);
        if state.random.one_in(many) {
            let stall = state.random.time(Duration::from_micros(5), Duration::from_millis(100));
            state.stalled += stall;
            let until = Some(state.now + stall);
            state.block(self.id, Blocked { key: None, until });
            self.yield_turn(state);
        } else if state.random.one_in(switch) {
            self.yield_turn(state);
        }
    }

    fn count(&self, state: &mut State, what: &'static str, at: &'static Location<'static>) {
        state.steps += 1;
        let nanos = state.random.below(2000) as u64;
        state.now += Duration::from_nanos(nanos);
        state.fire_timers();
        let number = state.threads[self.id].number;
        state.mix(number << 32 | u64::from(at.line()));
        state.mix(nanos);
        state.threads[self.id].last = (what, at);
        if state.log.len() == LOGGED {
            state.log.pop_front();
        }
        let now = state.now;
        state.log.push_back((now, number, what, at));
        if state.steps > MOST_STEPS {
            state.failure.get_or_insert_with(|| "it does not come to an end".to_owned());
        }
    }

    /// Lets the scheduler choose, and returns when it is this thread's turn again.
    fn yield_turn(&self, mut state: MutexGuard<'_, State>) {
        if state.failure.is_some() {
            self.scheduler.give_turn(&state, NOBODY);
        } else if self.scheduler.next(&mut state) == self.id {
            return;
        }
        drop(state);
        self.scheduler.wait_for_turn(self.id);
    }

    /// Takes a lock by `take`, waiting for as long as it gives none.
    pub(super) fn acquire<G>(
        &self,
        key: usize,
        what: &'static str,
        at: &'static Location<'static>,
        take: impl Fn() -> Option<G>,
    ) -> G {
        loop {
            if let Some(guard) = take() {
                return guard;
            }
            let mut state = self.scheduler.state();
            self.count(&mut state, what, at);
            state.block(self.id, Blocked { key: Some(key), until: None });
            self.yield_turn(state);
        }
    }

    /// Waits to be woken by `key`, for at most `most`; true where that time passed. Wakes for no reason now and then.
    pub(super) fn wait(&self, key: usize, most: Duration, at: &'static Location<'static>) -> bool {
        let mut state = self.scheduler.state();
        self.count(&mut state, "wait", at);
        let early = state.random.one_in(50).then(|| state.random.time(Duration::from_micros(1), most));
        let until = Some(state.now + early.unwrap_or(most).min(most));
        state.block(self.id, Blocked { key: Some(key), until });
        self.yield_turn(state);
        self.scheduler.state().threads[self.id].timed_out && early.is_none()
    }

    pub(super) fn sleep(&self, time: Duration, what: &'static str, at: &'static Location<'static>) {
        let mut state = self.scheduler.state();
        self.count(&mut state, what, at);
        let until = Some(state.now + time);
        state.block(self.id, Blocked { key: None, until });
        self.yield_turn(state);
    }

    pub(super) fn wake_all(&self, key: usize) {
        let mut state = self.scheduler.state();
        for id in state.waiting_for(key) {
            state.unblock(id);
        }
    }

    pub(super) fn wake_one(&self, key: usize) {
        let mut state = self.scheduler.state();
        let waiting = state.waiting_for(key);
        if !waiting.is_empty() {
            let id = waiting[state.random.below(waiting.len())];
            state.unblock(id);
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.scheduler.base + self.time()
    }

    /// Returns the time since the simulation began.
    pub(crate) fn time(&self) -> Duration {
        self.scheduler.state().now
    }

    /// Returns for how long threads were stalled in all.
    pub(crate) fn stalled(&self) -> Duration {
        self.scheduler.state().stalled
    }

    pub(crate) fn change_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.scheduler.state().faults);
    }

    /// Whether what happens one time in `many` happens now.
    pub(super) fn fails(&self, many: impl Fn(&Faults) -> u32) -> bool {
        let mut state = self.scheduler.state();
        let many = many(&state.faults);
        state.random.one_in(many)
    }

    /// Whether a thread cannot be started now.
    pub(super) fn refuses_threads(&self) -> bool {
        let refuses = self.fails(|faults| faults.spawn);
        if refuses {
            let mut state = self.scheduler.state();
            state.last_failure = Some(state.now);
        }
        refuses
    }

    /// Returns when a thread last could not be started.
    pub(crate) fn last_failure(&self) -> Option<Duration> {
        self.scheduler.state().last_failure
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        self.scheduler.state().random.below(bound)
    }

    pub(super) fn random<const N: usize>(&self) -> [u8; N] {
        let mut state = self.scheduler.state();
        std::array::from_fn(|_| state.random.next().to_le_bytes()[0])
    }

    /// Returns other random numbers that this simulation's decide.
    pub(crate) fn fork_random(&self) -> Random {
        Random(self.scheduler.state().random.next())
    }

    /// Gives the threads of this simulation something that they share beside what they are given.
    pub(crate) fn set_environment(&self, environment: Arc<dyn Any + Send + Sync>) {
        self.scheduler.state().environment = Some(environment);
    }

    pub(crate) fn environment(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.scheduler.state().environment.clone()
    }

    /// Makes `value` a part of the trace.
    pub(crate) fn note(&self, value: u64) {
        self.scheduler.state().mix(value);
    }

    /// Ends the simulation as failed; does not return.
    pub(crate) fn fail(&self, message: String) -> ! {
        let mut state = self.scheduler.state();
        state.failure.get_or_insert(message);
        self.scheduler.give_turn(&state, NOBODY);
        drop(state);
        loop {
            self.scheduler.wait_for_turn(self.id);
        }
    }

    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let id = {
            let mut state = self.scheduler.state();
            let number = state.started;
            state.started += 1;
            state.live += 1;
            let last = ("start", Location::caller());
            let thread = Thread { name: name.to_owned(), number, handle: None, blocked: None, timed_out: false, last };
            match state.free.pop() {
                Some(id) => {
                    state.threads[id] = thread;
                    id
                }
                None => {
                    state.threads.push(thread);
                    state.threads.len() - 1
                }
            }
        };
        let thread = Self { scheduler: Arc::clone(&self.scheduler), id };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || thread.run(work));
        let mut state = self.scheduler.state();
        state.threads[id].handle = Some(started.expect("the machine has threads enough").thread().clone());
        state.runnable.push(id);
    }

    fn run(self, work: impl FnOnce()) {
        CURRENT.with(|current| *current.borrow_mut() = Some(self.clone()));
        self.scheduler.wait_for_turn(self.id);
        let panicked = catch_unwind(AssertUnwindSafe(work)).is_err();
        CURRENT.with(|current| *current.borrow_mut() = None);
        let mut state = self.scheduler.state();
        if panicked {
            let message = format!("thread {} panicked, as said above", state.threads[self.id].name);
            state.failure.get_or_insert(message);
            self.scheduler.give_turn(&state, NOBODY);
            return;
        }
        state.live -= 1;
        state.threads[self.id].handle = None;
        state.free.push(self.id);
        let id = self.id;
        state.runnable.retain(|other| *other != id);
        self.scheduler.next(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Condvar, Mutex, elapsed, now, sleep, spawn};
    use super::*;

    fn race(seed: u64) -> (Report, usize) {
        let order = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&order);
        let report = simulate(seed, move || {
            for number in 0..5 {
                let order = Arc::clone(&order);
                spawn("racer", move || {
                    sleep(Duration::from_secs(number % 2));
                    order.lock().push(number);
                })
                .unwrap();
            }
        });
        let all = all.lock();
        (report.unwrap(), all.iter().fold(0, |code, number| code * 5 + usize::try_from(*number).unwrap()))
    }

    #[test]
    fn a_seed_is_a_schedule_and_time_passes_only_in_simulation() {
        let mut orders = BTreeSet::new();
        for seed in 0..50 {
            let (report, order) = race(seed);
            assert_eq!((report, order), race(seed), "seed {seed}");
            assert!(report.time >= Duration::from_secs(1), "{report:?}");
            orders.insert(order);
        }
        assert!(orders.len() > 5, "{orders:?}");
    }

    #[test]
    fn a_deadlock_is_found_and_described() {
        let failure = simulate(1, || {
            let locks = Arc::new((Mutex::new(()), Mutex::new(())));
            let other = Arc::clone(&locks);
            spawn("other", move || {
                let _first = other.1.lock();
                sleep(Duration::from_millis(1));
                let _second = other.0.lock();
            })
            .unwrap();
            let _first = locks.0.lock();
            sleep(Duration::from_millis(1));
            let _second = locks.1.lock();
        });
        let failure = failure.unwrap_err();
        assert!(failure.starts_with("deadlock") && failure.contains("other: is blocked"), "{failure}");
    }

    #[test]
    fn a_wait_ends_by_a_notification_or_by_its_time() {
        for seed in 0..50 {
            let simulated = simulate(seed, || {
                let pair = Arc::new((Mutex::new(false), Condvar::new()));
                let other = Arc::clone(&pair);
                let begun = now();
                let (guard, timed_out) = pair.1.wait_timeout_while(pair.0.lock(), Duration::from_secs(5), |set| !*set);
                assert!(timed_out && elapsed(begun) >= Duration::from_secs(5));
                drop(guard);
                spawn("setter", move || {
                    sleep(Duration::from_secs(1));
                    *other.0.lock() = true;
                    other.1.notify_all();
                })
                .unwrap();
                let begun = now();
                let (_, timed_out) = pair.1.wait_timeout_while(pair.0.lock(), Duration::from_secs(5), |set| !*set);
                assert!(!timed_out && elapsed(begun) < Duration::from_secs(2));
            });
            assert!(simulated.is_ok(), "seed {seed}: {simulated:?}");
        }
    }

    #[test]
    fn a_panic_of_a_thread_is_a_failure() {
        let failure = simulate(1, || spawn("bad", || panic!("it is bad")).unwrap()).unwrap_err();
        assert!(failure.starts_with("thread bad panicked"), "{failure}");
    }
}
