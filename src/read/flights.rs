//! One fetch for all who want the same chunk at the same time.
//!
//! Who comes first leads: it fetches, and lands the flight for those who joined. Each waits no longer than it would by itself, and
//! a failure is told to who waited and then forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, now};
use crate::{ChunkIndex, Error, ErrorKind, Result};

/// An opened chunk, or why there is none.
type Outcome = Result<Arc<Vec<u8>>, (ErrorKind, String)>;

/// Those of one device.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<ChunkIndex, Arc<Flight>>>);

#[derive(Default)]
pub(super) struct Flight {
    landed: Mutex<Option<Outcome>>,
    landing: Condvar,
}

/// What a reader is to a flight.
pub(super) enum Role<'f> {
    Leads(Lead<'f>),
    Joined(Arc<Flight>),
}

/// The duty to land a flight; one that is dropped lands as failed.
pub(super) struct Lead<'f> {
    flights: &'f Flights,
    flight: Arc<Flight>,
    index: ChunkIndex,
    /// The flight ended, and is no longer in the map.
    is_over: bool,
}

impl Flights {
    pub(super) fn join(&self, index: ChunkIndex) -> Role<'_> {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&index) {
            return Role::Joined(Arc::clone(flight));
        }
        let flight = Arc::<Flight>::default();
        flights.insert(index, Arc::clone(&flight));
        Role::Leads(Lead { flights: self, flight, index, is_over: false })
    }

    /// Whether one is under way.
    pub(super) fn has(&self, index: ChunkIndex) -> bool {
        self.0.lock().contains_key(&index)
    }
}

impl<'f> Lead<'f> {
    /// Returns whether a reader waits for the flight.
    pub(super) fn is_joined(&self) -> bool {
        // The map and this lead hold it.
        Arc::strong_count(&self.flight) > 2
    }

    /// Ends the flight without a result if nobody joined it; else returns it, to be landed.
    pub(super) fn end_unless_joined(mut self) -> Option<Lead<'f>> {
        let mut flights = self.flights.0.lock();
        // The map and this lead hold it; nobody can join while the map is locked.
        if Arc::strong_count(&self.flight) > 2 {
            drop(flights);
            return Some(self);
        }
        flights.remove(&self.index);
        self.is_over = true;
        None
    }

    pub(super) fn land(self, result: &Result<Arc<Vec<u8>>>) {
        let outcome = match result {
            Ok(chunk) => Ok(Arc::clone(chunk)),
            Err(error) => Err((error.kind(), error.chain())),
        };
        *self.flight.landed.lock() = Some(outcome);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.flights.0.lock().remove(&self.index);
        let mut landed = self.flight.landed.lock();
        landed.get_or_insert_with(|| {
            Err((ErrorKind::Internal, format!("the fetch of chunk {} was aborted", self.index.0)))
        });
        self.flight.landing.notify_all();
    }
}

impl Flight {
    /// What it comes to, if that is before `until`.
    pub(super) fn wait(&self, until: Instant) -> Option<Result<Arc<Vec<u8>>>> {
        let landed = self.landed.lock();
        let left = until.saturating_duration_since(now());
        let (landed, _) = self.landing.wait_timeout_while(landed, left, |landed| landed.is_none());
        landed.as_ref().map(|outcome| match outcome {
            Ok(chunk) => Ok(Arc::clone(chunk)),
            Err((kind, message)) => Err(Error::new(*kind, message.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INDEX: ChunkIndex = ChunkIndex(7);

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn one_leads_and_all_hear_how_it_ended_if_they_wait_long_enough() {
        let flights = Flights::default();
        let Role::Leads(lead) = flights.join(INDEX) else { panic!("nobody was there") };
        let Role::Joined(flight) = flights.join(INDEX) else { panic!("somebody leads") };
        assert!(flight.wait(soon()).is_none() && flights.has(INDEX));
        lead.land(&Ok(Arc::new(vec![1])));
        assert_eq!(*flight.wait(soon()).unwrap().unwrap(), [1]);
        assert!(!flights.has(INDEX));
    }

    #[test]
    fn a_leader_that_is_lost_fails_its_flight_and_the_next_leads_anew() {
        let flights = Flights::default();
        let Role::Leads(lead) = flights.join(INDEX) else { panic!("nobody was there") };
        let Role::Joined(flight) = flights.join(INDEX) else { panic!("somebody leads") };
        drop(lead);
        assert_eq!(flight.wait(soon()).unwrap().unwrap_err().kind(), ErrorKind::Internal);
        assert!(matches!(flights.join(INDEX), Role::Leads(_)));
    }
}
