//! The time that some of a stream's work takes, by events around it: where the time of a pass goes.

use std::cell::RefCell;

use super::{Event, GpuError, Stream};

/// Sums the times of the work it is put around. Off, it costs nothing; on, an event before and after. Work that is being
/// captured cannot be timed.
#[derive(Debug)]
pub struct Stopwatch {
    stream: Stream,
    /// Starts and ends, while it is on.
    spans: RefCell<Option<Vec<(Event, Event)>>>,
}

impl Stopwatch {
    /// A stopwatch that is off.
    pub fn new(stream: &Stream) -> Stopwatch {
        Stopwatch { stream: stream.clone(), spans: RefCell::new(None) }
    }

    /// Turns it on, at 0.
    pub fn start(&self) {
        *self.spans.borrow_mut() = Some(Vec::new());
    }

    /// Turns it off; returns the milliseconds between the starts and ends, once the work is done.
    ///
    /// # Errors
    /// [`GpuError::Call`].
    pub fn stop(&self) -> Result<f64, GpuError> {
        let spans = self.spans.borrow_mut().take().unwrap_or_default();
        let times = spans.iter().map(|(start, end)| start.elapsed_ms(end).map(f64::from));
        times.sum()
    }

    /// Submits work, timed if the stopwatch is on.
    ///
    /// # Errors
    /// Those of the work, and [`GpuError::Call`].
    pub fn time<T, E: From<GpuError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.spans.borrow().is_none() {
            return work();
        }
        let start = self.stream.record()?;
        let done = work()?;
        let end = self.stream.record()?;
        if let Some(spans) = self.spans.borrow_mut().as_mut() {
            spans.push((start, end));
        }
        Ok(done)
    }
}
